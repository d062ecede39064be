//! Dirty rings and dirty bitmaps of /dev/kvm behind the interface of ringmark-abi
