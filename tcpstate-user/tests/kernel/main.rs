//! Tests on the kernel that runs: real sockets in namespaces of their own, watched by `tcpstate` and,
//! beside it, by something that is not this project.
//!
//! They need root, and say `skipped: why` where that or something else is missing; with
//! `TCPSTATE_REQUIRE_KERNEL=1` a skip is a failure. `cargo xtask test` runs them.

mod need;
mod net;
mod oracle;
mod process;
mod same_as_oracle;
mod traffic;
mod wire;

use libtest_mimic::Arguments;

/// How `tcpstate` can be attached.
const ATTACH_MODES: [&str; 2] = ["btf", "tracepoint"];

fn main() {
    let mut arguments = Arguments::from_args();
    // Most tests wait for processes to start; more threads than this would only disturb each other.
    arguments.test_threads.get_or_insert(2);
    let mut trials = Vec::new();
    same_as_oracle::add(&mut trials);
    libtest_mimic::run(&arguments, trials).exit();
}
