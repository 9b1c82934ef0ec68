//! The server on port 9181: queue, leases, output, artefacts.
