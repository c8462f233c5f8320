//! Config: containerd's file format, versions 2 to 4, checked and with the line of each mistake.
