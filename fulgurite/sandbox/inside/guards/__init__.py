"""What a process gives up before it runs foreign code: rights, system calls, resources, and the view of the machine."""
