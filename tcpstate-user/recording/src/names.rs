//! The names in a recording: blocks of their own, each before the first block of events that needs it.
//!
//! Names are optional. A file without them is whole, and where there is no room they are left out.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use tcpstate_core::names::{Cgroup, Names, Pod};

use crate::{
    block::{BlockHeader, Kind},
    packing::Malformed,
};

/// The most bytes of the JSON in a block of names.
pub(crate) const MAX_NAMES: usize = 1 << 20;
/// Bytes from which on a writer begins the next block. The kernel's paths are shorter than 4,096 bytes,
/// and no byte takes more than six in JSON.
const FULL: usize = MAX_NAMES - 32 * 1024;

/// The cgroups that a [`Namer`] remembers, more than a host has.
const MAX_KNOWN: usize = 1 << 20;

/// The names of cgroups by their ids.
pub(crate) type Cgroups = BTreeMap<u64, Arc<Cgroup>>;

/// The names of cgroups, as JSON. What the path tells is not in it.
#[derive(Serialize, Deserialize)]
struct Payload<T: Ord> {
    // A newer program may leave them out.
    #[serde(default = "BTreeMap::new")]
    cgroups: BTreeMap<u64, T>,
    /// The names of pods, as `namespace/name`, by their UIDs.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    pods: BTreeMap<T, T>,
    /// The names of containers by their ids.
    #[serde(default = "BTreeMap::new", skip_serializing_if = "BTreeMap::is_empty")]
    containers: BTreeMap<T, T>,
}

impl<'a> Payload<&'a str> {
    fn new(cgroups: &'a Cgroups) -> Self {
        let of = |cgroup: &'a Arc<Cgroup>| (pod(cgroup), container(cgroup));
        Self {
            cgroups: cgroups
                .iter()
                .map(|(&id, cgroup)| (id, cgroup.path()))
                .collect(),
            pods: cgroups.values().filter_map(|one| of(one).0).collect(),
            containers: cgroups.values().filter_map(|one| of(one).1).collect(),
        }
    }
}

/// A pod's UID and name.
fn pod(cgroup: &Cgroup) -> Option<(&str, &str)> {
    Some((cgroup.pod_uid()?, cgroup.pod()?.as_str()))
}

/// A container's id and name.
fn container(cgroup: &Cgroup) -> Option<(&str, &str)> {
    Some((cgroup.container()?, cgroup.container_name()?))
}

/// Looks up the names of the cgroups in a file's events, each once; that of a pod until it is known.
#[derive(Debug, Default)]
pub(crate) struct Namer {
    names: Names,
    /// The ids that have been looked up for this file, and whether the name of a pod is still missing.
    known: HashMap<u64, bool>,
}

impl Namer {
    pub(crate) fn new(names: Names) -> Self {
        Self {
            names,
            known: HashMap::new(),
        }
    }

    /// The names of those cgroups that are new in this file, or have got the name of their pod.
    pub(crate) fn learn(&mut self, cgroups: &[u64]) -> Cgroups {
        let mut found = Cgroups::new();
        if self.names.is_empty() {
            return found;
        }
        if self.known.len() > MAX_KNOWN {
            // A name that comes twice does no harm.
            self.known.clear();
        }
        for &id in cgroups {
            let before = self.known.get(&id).copied();
            if before == Some(false) {
                continue;
            }
            let cgroup = self.names.cgroup(Some(id));
            let lacks_pod = cgroup.as_ref().is_some_and(|cgroup| cgroup.lacks_pod());
            self.known.insert(id, lacks_pod);
            if let Some(cgroup) = cgroup
                && (before.is_none() || !lacks_pod)
            {
                found.insert(id, cgroup);
            }
        }
        found
    }

    /// Begins a new file, which has no names yet.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }
}

/// The ids that occur, each once.
pub(crate) fn distinct(ids: impl Iterator<Item = Option<u64>>) -> Vec<u64> {
    let (mut distinct, mut last) = (HashSet::new(), None);
    for id in ids {
        // Nearly always it is the same again.
        if id != last {
            last = id;
            distinct.extend(id);
        }
    }
    distinct.into_iter().collect()
}

/// These names as blocks, in a file where `first_event` events come before them.
pub(crate) fn to_blocks(cgroups: Cgroups, first_event: u64) -> Vec<u8> {
    let mut blocks = Vec::new();
    let mut push = |cgroups: &Cgroups| {
        if !cgroups.is_empty() {
            // It has only numbers and text, which cannot fail to be JSON.
            let json = serde_json::to_vec(&Payload::new(cgroups)).unwrap_or_default();
            let header = BlockHeader::plain(Kind::NAMES, &json, first_event);
            blocks.extend_from_slice(&header.to_bytes());
            blocks.extend_from_slice(&json);
        }
    };
    let (mut part, mut bytes) = (Cgroups::new(), 0);
    for (id, cgroup) in cgroups {
        // Quotes, colon, comma and 20 digits.
        let of_path = 32 + 6 * cgroup.path().len();
        let others = [pod(&cgroup), container(&cgroup)].into_iter().flatten();
        let more = of_path
            + others
                .map(|(id, name)| 32 + 6 * (id.len() + name.len()))
                .sum::<usize>();
        if bytes + more > FULL {
            push(&part);
            part.clear();
            bytes = 0;
        }
        bytes += more;
        part.insert(id, cgroup);
    }
    push(&part);
    blocks
}

/// The names in a block's payload.
pub(crate) fn from_payload(payload: &[u8]) -> Result<Cgroups, Malformed> {
    if payload.len() > MAX_NAMES {
        return Err(Malformed);
    }
    let payload: Payload<String> = serde_json::from_slice(payload).map_err(|_| Malformed)?;
    let name = |names: &BTreeMap<String, String>, key: Option<&str>| names.get(key?).cloned();
    let named = |(id, path)| {
        let cgroup = Cgroup::of(path);
        let pod = name(&payload.pods, cgroup.pod_uid()).and_then(|text| Pod::parse(&text));
        let container = name(&payload.containers, cgroup.container()).map(Into::into);
        let cgroup = cgroup.with_pod(pod).with_container_name(container);
        (id, Arc::new(cgroup))
    };
    Ok(payload.cgroups.into_iter().map(named).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tcpstate_core::names::Naming;

    use super::*;
    use crate::block::BLOCK_HEADER;

    fn read(mut blocks: &[u8]) -> (Cgroups, usize) {
        let (mut all, mut count) = (Cgroups::new(), 0);
        while let Some(start) = blocks.first_chunk::<BLOCK_HEADER>() {
            let header = BlockHeader::from_bytes(start).unwrap();
            assert_eq!(
                (header.kind, header.count, header.first_event),
                (Kind::NAMES, 0, 7)
            );
            let length = BLOCK_HEADER + header.stored_bytes as usize;
            let payload = &blocks[BLOCK_HEADER..length];
            assert!(header.matches(payload));
            all.append(&mut from_payload(payload).unwrap());
            blocks = &blocks[length..];
            count += 1;
        }
        (all, count)
    }

    #[test]
    fn any_number_of_names_comes_back() {
        let cgroup = |path: String| Arc::new(Cgroup::of(path));
        let one = Cgroups::from([(u64::MAX, cgroup("/a \"b\"\n\u{1}".to_owned()))]);
        assert_eq!(read(&to_blocks(one.clone(), 7)), (one, 1));
        assert_eq!(to_blocks(Cgroups::new(), 7), b"");
        let many: Cgroups = (0..2_000)
            .map(|id| (id, cgroup(format!("/{id:0>4000}\u{1}"))))
            .collect();
        let (found, blocks) = read(&to_blocks(many.clone(), 7));
        assert_eq!(found, many);
        assert!(blocks > 8, "{blocks}");
    }

    const ID: &str = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376";
    const UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";

    #[test]
    fn the_names_of_containers_and_pods_come_back() {
        let of_docker = Cgroup::of(format!("/docker/{ID}")).with_container_name(Some("web".into()));
        let of_pod = |name| {
            let cgroup = Cgroup::of(format!("/kubepods/pod{UID}/{ID}"));
            Arc::new(cgroup.with_pod(Pod::parse(name)))
        };
        let pod = of_pod("shop/\u{202e}\"web\"");
        let all = Cgroups::from([(1, Arc::new(of_docker)), (2, pod.clone())]);
        let (mut found, blocks) = read(&to_blocks(all.clone(), 7));
        // The second one is of the same container.
        let named = (*pod).clone().with_container_name(Some("web".into()));
        assert_eq!(found.insert(2, pod).as_deref(), Some(&named));
        assert_eq!((found, blocks), (all, 1));
        // As an older writer has it, and longer than any.
        let long = "x".repeat(600);
        for pods in [
            "{}",
            "{\"UID\":\"web\"}",
            &format!("{{\"UID\":\"a/{long}\"}}"),
        ] {
            let pods = pods.replace("UID", UID);
            let json =
                format!("{{\"cgroups\":{{\"2\":\"/kubepods/pod{UID}/{ID}\"}},\"pods\":{pods}}}");
            let found = from_payload(json.as_bytes()).unwrap();
            assert!(found[&2].lacks_pod(), "{json}");
        }
    }

    /// A host whose pods get their names late.
    #[derive(Default)]
    struct Late(AtomicBool);

    impl Naming for Late {
        fn cgroup(&self, id: u64) -> Option<Arc<Cgroup>> {
            let pod = self
                .0
                .load(Ordering::Relaxed)
                .then(|| Pod::new("shop", "web"));
            let cgroup = Cgroup::of(format!("/kubepods/pod{UID}/{id}"));
            Some(Arc::new(cgroup.with_pod(pod)))
        }
    }

    #[test]
    fn a_pod_is_named_again_when_its_name_is_known() {
        let host = Arc::new(Late::default());
        let mut namer = Namer::new(Names::new(host.clone()));
        let mut learnt = |ids: &[u64]| namer.learn(ids).into_keys().collect::<Vec<_>>();
        assert_eq!(learnt(&[1, 2]), [1, 2]);
        assert!(learnt(&[1, 2]).is_empty());
        host.0.store(true, Ordering::Relaxed);
        assert_eq!(learnt(&[2, 3]), [2, 3]);
        assert_eq!(learnt(&[1, 2, 3]), [1]);
        assert!(learnt(&[1, 2, 3]).is_empty());
    }

    #[test]
    fn foreign_payloads_are_refused_and_newer_ones_are_read() {
        for payload in [
            &b""[..],
            b"7",
            b"{\"cgroups\":{\"x\":\"/\"}}",
            b"{\"cgroups\":[1]}",
        ] {
            assert!(from_payload(payload).is_err(), "{payload:?}");
        }
        assert_eq!(
            from_payload(b"{\"users\":{\"0\":\"root\"}}"),
            Ok(Cgroups::new())
        );
    }
}
