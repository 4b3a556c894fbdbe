//! `tcpstate ls`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use tcpstate::run::{own_cost, stdout};
use tcpstate_capture::{inventory, sockdiag::Request};
use tcpstate_common::State;
use tcpstate_core::{
    filter::{Family, StateSet},
    netns::NetnsSelector,
};
use tcpstate_text::{format::text::wants_colour, ls, settings::Settings};

use crate::watch::{columns, owner_filter};

/// Lists the sockets there are now.
pub(crate) fn run(arguments: &tcpstate_cli::Ls) -> anyhow::Result<ExitCode> {
    let columns = columns(&ls::LAYOUT, &arguments.columns);
    let filter = arguments.endpoints.filter();
    let request = Request {
        // Roles follow from who listens.
        states: arguments
            .state
            .map_or(StateSet::ALL, |set| set.with(StateSet::of(State::LISTEN))),
        ipv6_only: filter.family == Some(Family::Ipv6),
        // AGE follows from it too.
        with_info: true,
    };
    let owner = owner_filter(&arguments.owner, true)?;
    let resolve_owners = arguments.resolve_owners || arguments.owner.needs_process();
    let inventory = inventory::take(&arguments.netns, request, resolve_owners)?;
    let options = ls::Options {
        settings: Settings {
            colour: wants_colour(&io::stdout()),
            width: stdout::width(),
            several_netns: arguments.netns == NetnsSelector::All,
            ..Settings::plain(arguments.output.format())
        },
        states: arguments.state,
        filter,
        owner,
        columns,
        with_owner: resolve_owners,
        with_info: arguments.info,
    };
    let mut out = stdout::open().context("cannot open standard output")?;
    let written = ls::write(&inventory, &options, own_cost, &mut out, &mut io::stderr());
    match written.and_then(|()| out.flush()) {
        // A closed pipe ends quietly: whoever closed it has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}
