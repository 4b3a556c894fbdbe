//! How to capture.

use std::time::Duration;

use clap::Args;
use tcpstate_core::{
    mode::{Attach, Mode},
    options::ResolveOwners,
};

use crate::{
    choice::{Choices, choice},
    headings::CAPTURE,
    quantity::{parse_ring_bytes, parse_sample_interval},
};

/// The options of a capture. Only the last applies to a file.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = CAPTURE)]
pub struct Capture {
    /// How to attach to the kernel
    #[arg(
        long,
        value_name = "MODE",
        default_value = "auto",
        value_parser = choice(ATTACH),
        conflicts_with = "read"
    )]
    pub attach: Attach,
    /// Size of the ring buffer between kernel and user space, such as 64K or 8M: a power of two, at
    /// least one page
    #[arg(
        long,
        value_name = "N",
        default_value = "8M",
        value_parser = parse_ring_bytes,
        conflicts_with = "read"
    )]
    pub ring_bytes: u32,
    /// How often to sample sockets that make no event.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1s",
        value_parser = parse_sample_interval,
        help = "How often to sample sockets that make no event (TIME_WAIT, closed sockets in FIN_WAIT2, \
            half-open connections), such as 500ms; 0 turns sampling off and leaves them unknown",
        conflicts_with = "read"
    )]
    pub sample_interval: Duration,
    /// Whether to look up which processes hold the sockets that exist at the start, and the listeners later on;
    /// other users' processes require root
    #[arg(
        long,
        value_name = "WHEN",
        num_args = 0..=1,
        // A value after a space would be the INTERVAL of `rates`.
        require_equals = true,
        default_value = "auto",
        default_missing_value = "yes",
        value_parser = choice(RESOLVE_OWNERS),
        conflicts_with = "read"
    )]
    pub resolve_owners: ResolveOwners,
    /// Print the debug log of the BPF programs on standard error; slow
    #[arg(long, conflicts_with = "read")]
    pub bpf_log: bool,
    /// Have the kernel measure the cost of the BPF programs.
    #[arg(
        long,
        help = "Have the kernel measure the run time of all BPF programs during this run, and report ours \
            at the end; requires CAP_SYS_ADMIN and slows each run of a BPF program",
        conflicts_with = "read"
    )]
    pub bpf_stats: bool,
    /// Of a packet capture, leave out packets with wrong checksums, and count them; not for captures of the sending host,
    /// whose network card makes them
    #[arg(long, requires = "read")]
    pub verify_checksums: bool,
}

const ATTACH: Choices<Attach> = &[
    (Attach::Auto, "auto", "The best mode that this host allows"),
    (
        Attach::Only(Mode::Btf),
        "btf",
        "The BTF tracepoint: cheaper, and reads the socket directly",
    ),
    (
        Attach::Only(Mode::Tracepoint),
        "tracepoint",
        "The classic tracepoint: costs more, no cookie; needs BTF to read the socket",
    ),
];

pub(crate) const RESOLVE_OWNERS: Choices<ResolveOwners> = &[
    (
        ResolveOwners::Auto,
        "auto",
        "As far as this user may see them",
    ),
    (
        ResolveOwners::Yes,
        "yes",
        "The same, and report hidden processes; implied by --pid and --comm",
    ),
    (ResolveOwners::No, "no", "Do not look"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::trace;

    #[test]
    fn sampling_can_be_turned_off() {
        let interval = |text| trace(&["--sample-interval", text]).map(|trace| trace.watch.capture);
        assert_eq!(interval("0").unwrap().sample_interval, Duration::ZERO);
        let short = interval("500ms").unwrap().sample_interval;
        assert_eq!(short, Duration::from_millis(500));
        let error = interval("1ms").unwrap_err().to_string();
        assert!(
            error.contains("shorter than 10ms; 0 turns sampling off"),
            "{error}"
        );
    }

    #[test]
    fn owners_are_resolved_unless_that_is_switched_off() {
        let resolve = |words: &[&str]| trace(words).map(|trace| trace.watch.capture.resolve_owners);
        assert_eq!(resolve(&[]).unwrap(), ResolveOwners::Auto);
        // As it was before it had values.
        assert_eq!(resolve(&["--resolve-owners"]).unwrap(), ResolveOwners::Yes);
        for (value, expected) in [
            ("auto", ResolveOwners::Auto),
            ("yes", ResolveOwners::Yes),
            ("no", ResolveOwners::No),
        ] {
            let word = format!("--resolve-owners={value}");
            assert_eq!(resolve(&[&word]).unwrap(), expected);
        }
        assert!(resolve(&["--resolve-owners=never"]).is_err());
        assert!(resolve(&["--resolve-owners=no", "-r", "file"]).is_err());
    }
}
