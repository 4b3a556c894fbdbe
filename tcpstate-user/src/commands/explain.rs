//! `tcpstate explain`.

use std::{
    io::{self, Write as _},
    ops::ControlFlow,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use tcpstate::run::{self, Outputs, signals, stdout};
use tcpstate_capture::{
    Live, host, inventory,
    netns::{self, Namespace},
    sockdiag::Request,
};
use tcpstate_common::State;
use tcpstate_core::{
    explain::{self, STATES, Setting, Topic},
    filter::StateSet,
    inventory::Inventory,
    netns::NetnsSelector,
};
use tcpstate_text::{
    explain::{
        Counts, Edges, Here, Value, write_diagram, write_diagram_json, write_json, write_text,
    },
    format::text::wants_colour,
};

/// The widest text that is read with ease.
const WIDTH: usize = 100;

/// The time for which transitions are counted.
const WHILE: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &tcpstate_cli::Explain) -> anyhow::Result<ExitCode> {
    let mut out = stdout::open();
    let written = match &arguments.topic {
        None => {
            let inventory = sockets(StateSet::ALL, false);
            let counts = inventory.as_ref().map(counts);
            let edges = rates();
            if arguments.json {
                write_diagram_json(counts.as_ref(), edges.as_ref(), &mut out)
            } else {
                write_diagram(counts.as_ref(), edges.as_ref(), &mut out)
            }
        }
        Some(topic) => {
            let here = here(topic);
            if arguments.json {
                write_json(topic, &here, &mut out)
            } else {
                let width = stdout::width().unwrap_or(80).min(WIDTH);
                let colour = wants_colour(&rustix::stdio::stdout());
                write_text(topic, &here, width, colour, &mut out)
            }
        }
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The rates on the edges of the diagram; `None`: this user cannot watch, or a signal came first.
fn rates() -> Option<Edges> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    runtime.block_on(async {
        let mut interrupts =
            signals::Process::install(signals::Wanted::default(), std::future::pending()).ok()?;
        let mut live = Live::start(&tcpstate_capture::Options::events()).ok()?;
        let mut edges = Edges::default();
        let options = run::Options {
            duration: Some(WHILE),
            ..run::Options::default()
        };
        let outputs = Outputs {
            out: &mut io::sink(),
            err: &mut io::sink(),
        };
        run::drive(&mut live, &mut edges, outputs, &mut interrupts, &options)
            .await
            .ok()?;
        Some(edges)
    })
}

/// The sockets in these states, of every namespace that can be listed; `None`: of none.
fn sockets(states: StateSet, with_owners: bool) -> Option<Inventory> {
    let request = Request::of(states).with_info();
    inventory::take(&NetnsSelector::All, request, with_owners).ok()
}

fn counts(inventory: &Inventory) -> Counts {
    let of = |state: State| {
        let states = StateSet::of(state);
        let sockets = inventory.sockets.iter();
        sockets.filter(|socket| socket.is_in(states)).count() as u64
    };
    let states = STATES.iter().map(|text| text.state);
    let orphans = inventory.sockets.iter();
    Counts {
        is_partial: inventory.may_have_more(),
        by_state: states
            .filter(|&state| state != State::CLOSE)
            .map(|state| (state, of(state)))
            .collect(),
        orphans: orphans
            .filter(|socket| socket.state == State::FIN_WAIT2 && socket.inode.is_none())
            .count() as u64,
    }
}

fn here(topic: &Topic) -> Here {
    let text = match topic {
        Topic::State(text) => text,
        Topic::Finding(text) => {
            return Here {
                values: values(text.settings),
                present: None,
            };
        }
        Topic::Cause(_) | Topic::Field(_) => return Here::default(),
    };
    // Roles follow from who listens.
    let states = StateSet::of(text.state).with(StateSet::of(State::LISTEN));
    let present = (text.state != State::CLOSE)
        .then(|| sockets(states, true))
        .flatten()
        .map(|inventory| explain::present(&inventory, text.state));
    Here {
        values: values(text.settings),
        present,
    }
}

/// The values of these settings, here and in the other namespaces.
fn values(settings: &'static [Setting]) -> Vec<Value> {
    let own_inode = Namespace::own().ok().map(|namespace| namespace.inode());
    let mut values: Vec<Value> = settings
        .iter()
        .map(|&setting| Value {
            setting,
            own: host::setting(setting.path),
            elsewhere: Vec::new(),
        })
        .collect();
    // Those that cannot be found are not shown.
    let _ = netns::visit(&NetnsSelector::All, |namespace| {
        if Some(namespace.inode()) == own_inode {
            return ControlFlow::Continue(());
        }
        let name = namespace.name().to_owned();
        let read = || -> Vec<Option<String>> {
            settings
                .iter()
                .map(|setting| host::setting(setting.path))
                .collect()
        };
        let found = namespace.within(read).unwrap_or_default();
        for (value, found) in values.iter_mut().zip(found) {
            if let Some(found) = found.filter(|found| Some(found) != value.own.as_ref()) {
                value.elsewhere.push((name.clone(), found));
            }
        }
        ControlFlow::Continue(())
    });
    values
}
