//! Tests on the kernel that runs: real sockets in namespaces of their own, watched by `tcpstate` and,
//! beside it, by something that is not this project.
//!
//! They need root, and say `skipped: why` where that or something else is missing; with
//! `TCPSTATE_REQUIRE_KERNEL=1` a skip is a failure. `cargo xtask test` runs them on this machine's kernel,
//! `cargo xtask vm` on others, which it tells with `TCPSTATE_KERNEL_LACKS` what they may miss (`need`).

mod causes;
mod census;
mod cgroup;
mod dwell;
mod every_state;
mod faults;
mod fields;
mod filters;
mod lifecycle;
mod ls;
mod ls_told;
mod need;
mod net;
mod oracle;
mod owners;
mod packets;
mod privileges;
mod process;
mod programs;
mod rates;
mod ring;
mod same_as_oracle;
mod soak;
mod ss;
mod synack;
mod tally;
mod traffic;
mod views;
mod weather;
mod wire;

use libtest_mimic::Arguments;
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::need::Need;

/// How `tcpstate` can be attached.
const ATTACH_MODES: [&str; 2] = ["btf", "tracepoint"];

/// What the machine must have for an attach mode.
fn attach_needs(mode: &str) -> &'static [Need] {
    if mode == "btf" {
        &[Need::Btf]
    } else {
        &[Need::Tracefs]
    }
}

fn main() {
    match programs::run_if_asked() {
        Ok(false) => {}
        Ok(true) => return,
        Err(error) => {
            eprintln!("{error:#}");
            std::process::exit(1);
        }
    }
    // Before Linux 5.11 BPF maps count against it, and what is started here with few capabilities cannot raise it.
    // Where we cannot either, there is nothing to do: since then it does not matter.
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let _ = setrlimit(Resource::Memlock, unlimited);
    let mut arguments = Arguments::from_args();
    // One at a time. A process that one test starts has, until its `exec`, a copy of every socket of
    // the tests beside it: these would close later than they say.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    same_as_oracle::add(&mut trials);
    fields::add(&mut trials);
    filters::add(&mut trials);
    dwell::add(&mut trials);
    ring::add(&mut trials);
    lifecycle::add(&mut trials);
    rates::add(&mut trials);
    privileges::add(&mut trials);
    views::add(&mut trials);
    ls::add(&mut trials);
    ls_told::add(&mut trials);
    causes::add(&mut trials);
    census::add(&mut trials);
    owners::add(&mut trials);
    weather::add(&mut trials);
    faults::add(&mut trials);
    soak::add(&mut trials);
    synack::add(&mut trials);
    tally::add(&mut trials);
    libtest_mimic::run(&arguments, trials).exit();
}
