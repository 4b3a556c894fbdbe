//! The workload in a cgroup: its systemd unit, its container and its Kubernetes pod, from the path alone.
//!
//! The unit is the one that systemd of this host would name: the first component behind the slices, or, in the
//! session or under the manager of a user, that user's unit. Units of a systemd inside a container are not this host's.
//!
//! The container is the innermost component of one of these forms, with an id of 64 hexadecimal digits:
//!
//! | component | made by |
//! |---|---|
//! | `ID` | Docker, containerd and nerdctl with the driver `cgroupfs`, in any parent: `/docker/ID`, `/kubepods/burstable/podUID/ID` |
//! | `docker-ID.scope` | Docker with the driver `systemd` |
//! | `cri-containerd-ID.scope` | containerd for Kubernetes, `systemd` |
//! | `SLICE:cri-containerd:ID`, `SLICE:crio:ID` | the same where only the kubelet has the driver `systemd` |
//! | `nerdctl-ID.scope` | nerdctl, `systemd` |
//! | `crio-ID.scope`, `crio-ID` | CRI-O, `systemd` and `cgroupfs` |
//! | `libpod-ID.scope`, `libpod-ID` | Podman, `systemd` and `cgroupfs` |
//! | `libpod-payload-ID` | Podman below a unit of systemd (`--cgroups=split`, Quadlet) |
//!
//! The monitors beside them (`crio-conmon-ID.scope`, `libpod-conmon-ID.scope`) are no containers.
//!
//! The pod is the innermost component of one of these forms; its UID is a UUID, or 32 hexadecimal digits for a pod from a file
//! of the kubelet:
//!
//! | component | made by |
//! |---|---|
//! | `[PREFIX-]kubepods[-burstable\|-besteffort]-podUID.slice` | the driver `systemd`, with `_` for `-` in the UID; the prefix is that of `--cgroup-root`, as in kind |
//! | `podUID` | the driver `cgroupfs` |

use std::borrow::Cow;

/// The workload in a cgroup. `None`: there is none of that kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload<'a> {
    /// The systemd unit, as `systemctl` names it, with its escapes: `dev-disk-by\x2duuid.mount`.
    pub unit: Option<&'a str>,
    /// The container's id, 64 hexadecimal digits.
    pub container: Option<&'a str>,
    /// The pod's UID.
    pub pod_uid: Option<Cow<'a, str>>,
}

impl<'a> Workload<'a> {
    /// The workload in the cgroup with this path, as in `/proc/PID/cgroup`.
    pub fn of(path: &'a str) -> Self {
        let mut components = path.split('/').rev();
        Self {
            unit: unit(path),
            container: components.clone().find_map(container),
            pod_uid: components.find_map(pod_uid),
        }
    }
}

/// The types of units.
///
/// *Source:* `unit_type_table` in `src/basic/unit-def.c` of systemd.
const UNIT_TYPES: [&str; 11] = [
    "service",
    "socket",
    "target",
    "device",
    "mount",
    "automount",
    "swap",
    "timer",
    "path",
    "slice",
    "scope",
];

/// The innermost unit.
///
/// *Source:* `cg_path_get_unit` and `cg_path_get_user_unit` in `src/basic/cgroup-util.c` of systemd.
fn unit(path: &str) -> Option<&str> {
    let rest = without_slices(path);
    let (outer, below) = first(rest);
    let of_user = if is_session(outer) || is_user_manager(outer) {
        decoded(first(without_slices(below)).0)
    } else {
        None
    };
    of_user.or_else(|| decoded(outer))
}

/// The first component, and the rest.
fn first(path: &str) -> (&str, &str) {
    let path = path.trim_start_matches('/');
    path.split_once('/').unwrap_or((path, ""))
}

/// The path behind the slices at its beginning.
fn without_slices(mut path: &str) -> &str {
    loop {
        let (component, rest) = first(path);
        let name = unescaped(component);
        if !is_slice(name) || name.contains('@') || !is_unit_name(name) {
            return path;
        }
        path = rest;
    }
}

/// The unit that a component is named after; a slice is none, for the slices come before.
fn decoded(component: &str) -> Option<&str> {
    let name = unescaped(component);
    Some(name).filter(|name| is_unit_name(name) && !is_slice(name))
}

/// The character that systemd puts before a name that would be a file of the kernel's.
fn unescaped(component: &str) -> &str {
    component.strip_prefix('_').unwrap_or(component)
}

/// Whether this is the name of a unit or of an instance, not that of a template.
///
/// *Source:* `unit_name_is_valid` in `src/basic/unit-name.c` of systemd.
fn is_unit_name(name: &str) -> bool {
    const MAX_BYTES: usize = 255;
    let Some((stem, kind)) = name.rsplit_once('.') else {
        return false;
    };
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"@:-_.\\".contains(&byte);
    let is_whole = match stem.split_once('@') {
        Some((template, instance)) => !template.is_empty() && !instance.is_empty(),
        None => !stem.is_empty(),
    };
    name.len() <= MAX_BYTES && is_whole && stem.bytes().all(is_valid) && UNIT_TYPES.contains(&kind)
}

/// Whether the name ends as that of a unit does.
pub(crate) fn has_unit_type(name: &str) -> bool {
    let kind = name.rsplit_once('.').map(|(_, kind)| kind);
    kind.is_some_and(|kind| UNIT_TYPES.contains(&kind))
}

/// Whether this is the name of a slice, if it is one of a unit.
fn is_slice(name: &str) -> bool {
    matches!(name.rsplit_once('.'), Some((_, "slice")))
}

/// Whether this is the scope of a session: `session-2.scope`.
fn is_session(component: &str) -> bool {
    between(component, "session-", ".scope")
        .is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Whether this is the manager of a user's units, or of a capsule's.
fn is_user_manager(component: &str) -> bool {
    let user = between(component, "user@", ".service");
    let capsule = between(component, "capsule@", ".service");
    user.is_some_and(|uid| uid.parse::<u32>().is_ok())
        || capsule.is_some_and(|_| is_unit_name(component))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.strip_prefix(before)?.strip_suffix(after)
}

/// The text before and after a container's id.
const CONTAINERS: [(&str, &str); 9] = [
    ("", ""),
    ("docker-", ".scope"),
    ("cri-containerd-", ".scope"),
    ("nerdctl-", ".scope"),
    ("crio-", ".scope"),
    ("crio-", ""),
    ("libpod-", ".scope"),
    ("libpod-", ""),
    ("libpod-payload-", ""),
];

/// The container's id in this component.
fn container(component: &str) -> Option<&str> {
    // `SLICE:PREFIX:ID` asks runc for a scope; with the driver `cgroupfs` it makes a cgroup of that name.
    let component = match component.rsplit_once(':') {
        Some((slice, id)) if slice.contains(".slice:") => id,
        _ => component,
    };
    let mut forms = CONTAINERS.into_iter();
    forms.find_map(|(before, after)| between(component, before, after).filter(|id| is_id(id)))
}

/// Whether this is a container's id.
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_hex)
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The UID of the pod in this component.
fn pod_uid(component: &str) -> Option<Cow<'_, str>> {
    let name = component
        .split_once(':')
        .map_or(component, |(slice, _)| slice);
    let uid = match name.strip_suffix(".slice") {
        Some(name) => {
            let (class, uid) = name.rsplit_once("-pod")?;
            let class = class.strip_suffix("-burstable").unwrap_or(class);
            let class = class.strip_suffix("-besteffort").unwrap_or(class);
            let parent = class.strip_suffix("kubepods")?;
            (parent.is_empty() || parent.ends_with('-')).then_some(uid)?
        }
        None => name.strip_prefix("pod")?,
    };
    let uid = if uid.contains('_') {
        Cow::Owned(uid.replace('_', "-"))
    } else {
        Cow::Borrowed(uid)
    };
    is_uid(&uid).then_some(uid)
}

/// Whether this is the UID of a pod.
fn is_uid(text: &str) -> bool {
    let is_uuid = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => is_hex(byte),
        });
    is_uuid || text.len() == 32 && text.bytes().all(is_hex)
}

#[cfg(test)]
mod tests;
