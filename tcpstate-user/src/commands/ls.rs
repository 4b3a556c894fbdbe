//! `tcpstate ls`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context as _;
use tcpstate::run::{own_cost, stderr, stdout};
use tcpstate_capture::{inventory, sockdiag::Request};
use tcpstate_core::{
    expression::Expression, filter::StateSet, netns::NetnsSelector, options::ResolveOwners,
};
use tcpstate_text::{
    format::{text::wants_colour, units::Counted},
    ls,
    settings::Settings,
};

use crate::{
    INCOMPLETE,
    message::say,
    selection::{names, or_nothing, owner_filter},
    watch::columns,
};

/// Lists the sockets there are now.
pub(crate) fn run(arguments: &tcpstate_cli::Ls) -> anyhow::Result<ExitCode> {
    let columns = columns(&ls::LAYOUT, &arguments.columns);
    let filter = arguments.endpoints.filter();
    let words = arguments
        .expression(&names(true))
        .unwrap_or_else(|error| error.exit());
    let owner = owner_filter(&arguments.owner, true, arguments.output)?;
    let expression = Expression::from(&filter)
        .and(Expression::from(&owner))
        .and(words);
    let condition = expression.for_dump(arguments.state);
    let decided = Decided {
        in_kernel: match condition.to_string() {
            all if all.is_empty() => or_nothing(all),
            // Roles follow from them.
            some => format!("{some}, and all listeners"),
        },
        in_user_space: or_nothing(whole(arguments.state, &expression)),
    };
    if arguments.explain_filter {
        decided.write().context("cannot write the output")?;
        return Ok(ExitCode::SUCCESS);
    }
    // AGE follows from it too.
    let request = Request::from(&condition).with_info();
    let asked_for = arguments.resolve_owners == ResolveOwners::Yes;
    let by_process = expression.needs_process();
    let resolve_owners = arguments.resolve_owners != ResolveOwners::No || by_process;
    let mut inventory = inventory::take(&arguments.netns, request, resolve_owners)?;
    if by_process {
        // The answer depends on them.
        inventory.missing.extend(inventory.hidden_files_message());
    }
    if by_process || !asked_for {
        // Owners are shown as far as this user may see them.
        inventory.hidden_files = 0;
    }
    if arguments.verbose {
        let namespaces = inventory.namespaces.iter();
        let listed = namespaces.map(|one| one.dump.answers).sum();
        say(&format!(
            "the kernel listed {}; filter in the kernel: {}; in user space: {}",
            Counted(listed, "socket"),
            decided.in_kernel,
            decided.in_user_space,
        ));
    }
    let options = ls::Options {
        settings: Settings {
            colour: wants_colour(&rustix::stdio::stdout()),
            width: stdout::width(),
            several_netns: arguments.netns == NetnsSelector::All,
            ..Settings::plain(arguments.output.format())
        },
        states: arguments.state,
        expression,
        columns,
        with_owner: resolve_owners,
        with_cgroup: asked_for,
        with_info: arguments.info,
        verbose: arguments.verbose,
    };
    let mut out = stdout::open();
    let mut err: Box<dyn Write> = if arguments.output.quiet && inventory.is_complete() {
        Box::new(io::sink())
    } else {
        Box::new(stderr::open())
    };
    let written = ls::write(&inventory, &options, own_cost, &mut out, &mut err);
    match written.and_then(|()| out.flush()) {
        // A closed pipe ends quietly: whoever closed it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error).context("cannot write the output"),
        Ok(()) if inventory.is_complete() => Ok(ExitCode::SUCCESS),
        Ok(()) => Ok(ExitCode::from(INCOMPLETE)),
    }
}

/// The parts of the filter, in words.
struct Decided {
    in_kernel: String,
    in_user_space: String,
}

impl Decided {
    fn write(&self) -> io::Result<()> {
        let mut out = stdout::open();
        writeln!(out, "in the kernel: {}", self.in_kernel)?;
        writeln!(out, "in user space: {}", self.in_user_space)?;
        out.flush()
    }
}

/// The whole condition, which user space judges.
fn whole(states: Option<StateSet>, expression: &Expression) -> String {
    let states = states.map(Expression::from).unwrap_or_default();
    states.and(expression.clone()).to_string()
}
