//! The driver of a global zone: vmadm and zlogin, over ssh or as local processes.
