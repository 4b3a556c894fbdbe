//! The sockets that a command is asked for: by its options, and by a filter expression.

use std::{fmt, path::Path};

use tcpstate_capture::cgroups::{self, CgroupError};
use tcpstate_cli::{HostNames, Output, OwnerArgs, Watch, parse_expression};
use tcpstate_core::{
    escape::Printable,
    expression::{Expression, Lookup, Moment, Necessary},
    filter::{CgroupTree, Filter, KernelFilter, OwnerFilter},
};

use crate::message::note;

/// The sockets that a command is to watch.
pub(crate) struct Selection {
    filter: Filter,
    owner: OwnerFilter,
    /// The words of the command line.
    words: Expression,
    /// The whole condition on everything shown.
    pub(crate) whole: Expression,
    /// The part of it that is decided before the view.
    pub(crate) before_view: Expression,
    /// The part for the BPF programs.
    necessary: Necessary,
}

impl Selection {
    /// The selection of a command that judges at this moment. Bad usage ends the process.
    pub(crate) fn of(command: &str, moment: Moment, arguments: &Watch) -> anyhow::Result<Self> {
        let is_here = arguments.read.is_none();
        let words = parse_expression(command, moment, &arguments.expression, &names(is_here))
            .unwrap_or_else(|error| error.exit());
        let filter = arguments.sockets.filter();
        let owner = owner_filter(&arguments.sockets.owner, is_here, arguments.output)?;
        let whole = Expression::from(&filter)
            .and(Expression::from(&owner))
            .and(words.clone());
        Ok(Self {
            before_view: whole.clone(),
            necessary: whole.necessary(),
            whole,
            filter,
            owner,
            words,
        })
    }

    /// The part for the BPF programs.
    pub(crate) fn kernel(&self) -> KernelFilter<'_> {
        self.necessary.kernel()
    }

    /// That part in words.
    pub(crate) fn in_kernel(&self, arguments: &Watch) -> String {
        if arguments.read.is_some() {
            return "nothing, it is a recording".to_owned();
        }
        let mut text = or_nothing(self.necessary.to_string());
        if self.kernel().config().listeners != 0 {
            text += ", but for listeners, which tell the owners";
        }
        text
    }

    /// The part that is left to user space. It judges again what the kernel has.
    pub(crate) fn in_user_space(&self, arguments: &Watch) -> String {
        let rest = match arguments.read {
            Some(_) => &self.whole,
            None => self.necessary.rest(),
        };
        or_nothing(rest.to_string())
    }

    /// The conditions that the BPF programs cannot check; `None`: they check all.
    pub(crate) fn not_in_kernel(&self) -> Option<&Expression> {
        Some(self.necessary.rest()).filter(|rest| !rest.wants_all())
    }
}

pub(crate) fn or_nothing(text: String) -> String {
    if text.is_empty() {
        "nothing".to_owned()
    } else {
        text
    }
}

impl fmt::Display for Selection {
    /// As on the command line; empty if it is everything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            self.filter.to_string(),
            self.owner.to_string(),
            self.words.to_string(),
        ];
        let given: Vec<_> = all.into_iter().filter(|text| !text.is_empty()).collect();
        f.write_str(&given.join(" "))
    }
}

/// The meaning of names: on this host, or of a recording from another.
pub(crate) fn names(is_here: bool) -> impl Lookup {
    HostNames::new(move |path: &str| {
        find_cgroup(Path::new(path), is_here).map_err(|error| error.to_string())
    })
}

/// The filter on owners. A cgroup of this host must exist.
pub(crate) fn owner_filter(
    owner: &OwnerArgs,
    is_here: bool,
    output: Output,
) -> anyhow::Result<OwnerFilter> {
    let truncated: Vec<String> = owner
        .truncated_names()
        .map(|comm| format!("`{}`", Printable(comm.as_bytes())))
        .collect();
    if !truncated.is_empty() {
        let text = format!(
            "the kernel keeps 15 bytes of a process's name: --comm selects every name that begins with {}",
            truncated.join(" or ")
        );
        note(output, &text);
    }
    let cgroup = owner.cgroup.as_ref();
    let cgroup = cgroup.map(|path| find_cgroup(path, is_here)).transpose()?;
    Ok(owner.filter(cgroup))
}

fn find_cgroup(path: &Path, is_here: bool) -> Result<CgroupTree, CgroupError> {
    if is_here {
        let (path, id) = cgroups::Mount::find()?.find_cgroup(path)?;
        return Ok(CgroupTree { path, id: Some(id) });
    }
    let path = cgroups::path_elsewhere(path)?;
    Ok(CgroupTree { path, id: None })
}
