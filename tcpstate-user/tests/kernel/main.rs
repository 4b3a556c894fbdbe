//! Tests on the running kernel: real sockets in namespaces of their own, watched by `tcpstate` and by an
//! independent oracle.
//!
//! They need root, and print `skipped: REASON` if that or another requirement is missing; with
//! `TCPSTATE_REQUIRE_KERNEL=1` a skip is a failure. `cargo xtask test` runs them on this machine's kernel, and
//! `cargo xtask vm` on others, where `TCPSTATE_KERNEL_LACKS` names the features that may be missing (`need`).

mod address_filters;
mod ages;
mod api;
mod captures;
mod causes;
mod census;
mod cgroup;
mod diagnose;
mod dwell;
mod every_state;
mod expressions;
mod faults;
mod fields;
mod filters;
mod ftrace;
mod halves;
mod holders;
mod lifecycle;
mod lore;
mod ls;
mod ls_fields;
mod mptcp;
mod names;
mod namespaces;
mod need;
mod nested;
mod net;
mod netem;
mod oracle;
mod otlp;
mod owners;
mod packets;
mod parts;
mod privileges;
mod process;
mod programs;
mod prometheus;
mod rates;
mod restored;
mod ring;
mod same_as_oracle;
mod sandbox;
mod selections;
mod serve;
mod servers;
mod service;
mod slow_network;
mod soak;
mod ss;
mod synack;
mod tally;
mod threads;
mod top;
mod traffic;
mod transitions;
mod views;
mod web;
mod wire;

use libtest_mimic::Arguments;
use rustix::process::{Resource, Rlimit, setrlimit};

fn main() {
    match programs::run_if_asked() {
        Ok(false) => {}
        Ok(true) => return,
        Err(error) => {
            eprintln!("{error:#}");
            std::process::exit(1);
        }
    }
    // Before Linux 5.11 BPF maps count against this limit, and processes that are started here with few
    // capabilities cannot raise it. An error is ignored, because newer kernels do not need it.
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let _ = setrlimit(Resource::Memlock, unlimited);
    // A shell that starts this in the background ignores the first for all that it starts, and nohup the second.
    for signal in [libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the default action replaces no handler of this process, which has none.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    net::claim_ports();
    let mut arguments = Arguments::from_args();
    let mut trials = Vec::new();
    same_as_oracle::add(&mut trials);
    fields::add(&mut trials);
    filters::add(&mut trials);
    selections::add(&mut trials);
    address_filters::add(&mut trials);
    mptcp::add(&mut trials);
    threads::add(&mut trials);
    top::add(&mut trials);
    restored::add(&mut trials);
    dwell::add(&mut trials);
    ring::add(&mut trials);
    lifecycle::add(&mut trials);
    rates::add(&mut trials);
    parts::add(&mut trials);
    captures::add(&mut trials);
    privileges::add(&mut trials);
    views::add(&mut trials);
    ls::add(&mut trials);
    ls_fields::add(&mut trials);
    expressions::add(&mut trials);
    ages::add(&mut trials);
    lore::add(&mut trials);
    diagnose::add(&mut trials);
    serve::add(&mut trials);
    api::add(&mut trials);
    prometheus::add(&mut trials);
    otlp::add(&mut trials);
    service::add(&mut trials);
    sandbox::add(&mut trials);
    web::add(&mut trials);
    causes::add(&mut trials);
    census::add(&mut trials);
    names::add(&mut trials);
    owners::add(&mut trials);
    holders::add(&mut trials);
    namespaces::add(&mut trials);
    slow_network::add(&mut trials);
    faults::add(&mut trials);
    soak::add(&mut trials);
    synack::add(&mut trials);
    tally::add(&mut trials);
    nested::add(&mut trials);
    match halves::run(&mut arguments, trials) {
        Ok(conclusion) => conclusion.exit(),
        Err(error) => {
            eprintln!("{error:#}");
            std::process::exit(101);
        }
    }
}
