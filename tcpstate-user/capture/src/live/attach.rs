//! Attaching, in the mode that was asked for or in the best that works.

use tcpstate_common::State;
use tcpstate_core::{
    error::chain,
    filter::StateSet,
    mode::{Attach, Mode},
    netns::NetnsSelector,
};

use super::Options;
use crate::{
    error::CaptureError,
    host::{self, Host},
    inventory,
    loader::{self, Job, Loaded},
    sockdiag::Request,
    synack::SynackRetransmits,
    tally,
};

/// An attached program, and the reader of its counts if it makes a tally.
pub(super) type Attached = (Loaded, Option<tally::Reader>);

/// Attaches in the requested mode, or in the best that works; a note says why it is not `btf`.
pub(super) fn attach(
    host: &Host,
    options: &Options<'_>,
    notes: &mut Vec<String>,
) -> Result<Attached, CaptureError> {
    let btf = match options.attach {
        Attach::Only(mode) => return attach_as(host, options, mode),
        Attach::Auto => match attach_as(host, options, Mode::Btf) {
            Err(error) if options.tally.is_none() => error,
            result => return result,
        },
    };
    // A ring buffer size that fails in one mode fails in the other.
    if let CaptureError::RingBytes { .. } | CaptureError::RingAllocation { .. } = btf {
        return Err(btf);
    }
    match attach_as(host, options, Mode::Tracepoint) {
        Ok(attached) => {
            notes.push(format!(
                "attached to the classic tracepoint, since the BTF one failed: {}. Without it there is \
                 no socket cookie.",
                chain(&btf)
            ));
            Ok(attached)
        }
        Err(_) if matches!(btf, CaptureError::Privileges(_)) => Err(btf),
        Err(tracepoint) => Err(CaptureError::NoMode {
            remedy: btf.remedy(),
            btf: chain(&btf),
            tracepoint: chain(&tracepoint),
        }),
    }
}

/// Begins to count retransmitted SYN-ACKs, for the samples; adds a note with the reason if this kernel cannot.
pub(super) fn take_synack_retransmits(
    loaded: &mut Loaded,
    options: &Options<'_>,
    notes: &mut Vec<String>,
) -> Option<SynackRetransmits> {
    options
        .sample_interval
        .filter(|_| !options.half_open_only)?;
    match loaded.take_synack_retransmits() {
        Ok(counts) => Some(counts),
        Err(error) => {
            notes.push(format!(
                "retransmitted SYN-ACKs are not counted: {}",
                chain(&error)
            ));
            None
        }
    }
}

fn attach_as(host: &Host, options: &Options<'_>, mode: Mode) -> Result<Attached, CaptureError> {
    let plan = loader::Plan {
        mode,
        // Nothing goes through the ring when the kernel counts.
        ring_bytes: options
            .tally
            .map_or(options.ring_bytes, |_| host::page_bytes()),
        filter: options.filter,
        bpf_log: options.bpf_log,
        job: options.tally.map_or(Job::Stream, Job::Tally),
    };
    let mut loaded = loader::load(host, &plan)?;
    let mut tally = match options.tally {
        Some(size) => {
            let listening = listening(&options.namespaces).into_iter();
            Some(tally::Reader::new(&mut loaded, size, listening)?)
        }
        None => None,
    };
    loaded.attach()?;
    if let Some(tally) = &mut tally
        && loaded.watches_resets()
    {
        tally.watch_resets();
    }
    Ok((loaded, tally))
}

/// The ports of the sockets that listen now. Where they cannot be dumped, the sampler gives notice.
fn listening(namespaces: &NetnsSelector) -> Vec<u16> {
    let request = Request::of(StateSet::of(State::LISTEN));
    let sockets = inventory::take(namespaces, request, false)
        .map(|inventory| inventory.sockets)
        .unwrap_or_default();
    sockets.iter().map(|socket| socket.lport).collect()
}
