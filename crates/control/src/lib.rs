//! The Unix socket of a running machine: HTTP and JSON, server and client
