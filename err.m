qemu: could not open kernel file 'hv': No such file or directory
