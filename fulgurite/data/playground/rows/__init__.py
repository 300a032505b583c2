"""The playground's rows in the published schemas of each dataset."""
