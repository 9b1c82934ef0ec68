//! vmadm, zlogin and imgadm for Linux: zones from namespaces, overlayfs and cgroups.
