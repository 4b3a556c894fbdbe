//! The binary `tcpstate`.

fn main() {}
