"""What UltraLink's two pipelines (arXiv 2402.04588) share: languages, segments, what answers say, what a translation must keep."""
