//! Guest programs that certify every page they write; one source for bare metal and software vCPUs
