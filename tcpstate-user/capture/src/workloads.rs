//! The names of Kubernetes pods and of Docker's containers, from what the kubelet and Docker keep in files: without
//! an API, and without a secret. Where they cannot be read, there are no names.
//!
//! The kubelet makes a folder for the logs of each pod before it starts it: `/var/log/pods/NAMESPACE_NAME_UID`. Docker
//! keeps the configuration of a container in `/var/lib/docker/containers/ID/config.v2.json`.
//!
//! *Source:* `BuildPodLogsDirectory` in `pkg/kubelet/kuberuntime/helpers.go` of Kubernetes; `configFileName` in
//! `daemon/container/container.go` of Moby.

use std::{
    fs::{self, File, OpenOptions},
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use hashbrown::HashMap;
use serde::Deserialize;
use tcpstate_core::names::{Cgroup, Pod};

const POD_LOGS: &str = "/var/log/pods";
const DOCKER: &str = "/var/lib/docker/containers";

/// The folders that have the names of pods and containers.
pub const WORKLOADS: [&str; 2] = [POD_LOGS, DOCKER];

/// The folders that are looked at: a node has some hundred pods.
const MAX_PODS: usize = 1 << 14;
/// Bytes of a configuration that are read.
const MAX_CONFIG: u64 = 1 << 20;
/// The longest time in which a folder may change without another time of its change.
const TICK: Duration = Duration::from_millis(100);

/// The names of this host's pods and containers.
#[derive(Debug)]
pub(crate) struct Workloads {
    pods: Pods,
    docker: PathBuf,
}

/// The pods that have a folder for logs.
#[derive(Debug)]
struct Pods {
    folder: PathBuf,
    /// By UID.
    known: HashMap<Box<str>, Pod>,
    /// When the folder had changed last, at the last reading.
    changed: Option<SystemTime>,
    /// When that was seen first, and whether the folder has been read long enough after it.
    seen: Option<Instant>,
    is_settled: bool,
}

impl Workloads {
    pub(crate) fn of_host() -> Self {
        Self::at(Path::new(POD_LOGS), Path::new(DOCKER))
    }

    fn at(pod_logs: &Path, docker: &Path) -> Self {
        Self {
            pods: Pods {
                folder: pod_logs.to_owned(),
                known: HashMap::new(),
                changed: None,
                seen: None,
                is_settled: false,
            },
            docker: docker.to_owned(),
        }
    }

    /// The names of a cgroup, as far as they are known now.
    pub(crate) fn name(&mut self, cgroup: Cgroup) -> Cgroup {
        let pod = self.pod(&cgroup);
        let container = cgroup.container().and_then(|id| self.container(id));
        cgroup.with_pod(pod).with_container_name(container)
    }

    /// The name of the pod that a cgroup is of.
    pub(crate) fn pod(&mut self, cgroup: &Cgroup) -> Option<Pod> {
        self.pods.get(cgroup.pod_uid()?)
    }

    /// The name that Docker has given to a container with this id.
    fn container(&self, id: &str) -> Option<Box<str>> {
        #[derive(Deserialize)]
        struct Config {
            #[serde(rename = "Name")]
            name: String,
        }
        let file = open_file(&self.docker.join(id).join("config.v2.json"))?;
        let mut text = Vec::new();
        file.take(MAX_CONFIG).read_to_end(&mut text).ok()?;
        let config: Config = serde_json::from_slice(&text).ok()?;
        let name = config.name.strip_prefix('/').unwrap_or(&config.name);
        Some(name).filter(|name| !name.is_empty()).map(Into::into)
    }
}

/// Opens a file that is nothing else: reading it does not wait.
fn open_file(path: &Path) -> Option<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

impl Pods {
    fn get(&mut self, uid: &str) -> Option<Pod> {
        if !self.known.contains_key(uid) {
            self.read_again();
        }
        self.known.get(uid).cloned()
    }

    /// Reads the folder again if it may have changed.
    fn read_again(&mut self) {
        let Ok(changed) = fs::metadata(&self.folder).and_then(|folder| folder.modified()) else {
            return;
        };
        if self.changed != Some(changed) {
            (self.changed, self.seen) = (Some(changed), Some(Instant::now()));
            self.is_settled = false;
        }
        if self.is_settled {
            return;
        }
        // Later changes show in the time of the change.
        self.is_settled = self.seen.is_some_and(|seen| seen.elapsed() >= TICK);
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let folders = entries
            .take(MAX_PODS)
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        self.known = folders
            .filter_map(|entry| pod(entry.file_name().to_str()?))
            .collect();
    }
}

/// The UID and the name of the pod with this folder. Neither name has a `_` in it.
fn pod(folder: &str) -> Option<(Box<str>, Pod)> {
    let (names, uid) = folder.rsplit_once('_')?;
    let (namespace, name) = names.split_once('_')?;
    let is_whole = ![namespace, name, uid].contains(&"");
    is_whole.then(|| (uid.into(), Pod::new(namespace, name)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const ID: &str = "34dc0b5e626f2c5c4c5170e34b10e7654ce36f0fcd532739f4445baabea03376";
    const UID: &str = "74c13223-5a00-11e9-b385-42010a80018d";

    #[test]
    fn a_pod_is_found_when_its_folder_appears() {
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("pods");
        let mut workloads = Workloads::at(&logs, folder.path());
        let cgroup = |uid: &str| Cgroup::of(format!("/kubepods/pod{uid}/{ID}"));
        let mut pod = |uid: &str| {
            let pod = workloads.pod(&cgroup(uid));
            pod.map(|pod| pod.as_str().to_owned())
        };
        assert_eq!(pod(UID), None);
        fs::create_dir_all(logs.join(format!("shop_web-7d4b9c6f5-x2x9z_{UID}"))).unwrap();
        assert_eq!(pod(UID).as_deref(), Some("shop/web-7d4b9c6f5-x2x9z"));
        // At once after it: the time of the change may be the same.
        let second = UID.replace('7', "8");
        assert_eq!(pod(&second), None);
        fs::create_dir(logs.join(format!("shop_db-0_{second}"))).unwrap();
        assert_eq!(pod(&second).as_deref(), Some("shop/db-0"));
        assert_eq!(pod("0"), None);
    }

    #[test]
    fn other_entries_name_no_pod() {
        for (name, expected) in [
            ("shop_web_1", Some("shop/web")),
            ("a_b_c_1", Some("a/b_c")),
            ("74c13223", None),
            ("shop_1", None),
            ("_web_1", None),
            ("shop__1", None),
            ("shop_web_", None),
            ("", None),
        ] {
            let found = pod(name).map(|(_, pod)| pod.as_str().to_owned());
            assert_eq!(found.as_deref(), expected, "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let pods = folder.path();
        fs::write(pods.join(format!("a_file_{UID}")), "").unwrap();
        symlink("/", pods.join(format!("a_link_{UID}"))).unwrap();
        let mut workloads = Workloads::at(pods, pods);
        assert_eq!(
            workloads.pod(&Cgroup::of(format!("/kubepods/pod{UID}"))),
            None
        );
    }

    #[test]
    fn docker_names_its_containers() {
        let folder = tempfile::tempdir().unwrap();
        let of_container = folder.path().join(ID);
        let config = of_container.join("config.v2.json");
        fs::create_dir(&of_container).unwrap();
        let mut workloads = Workloads::at(folder.path(), folder.path());
        let mut name = || {
            let cgroup = workloads.name(Cgroup::of(format!("/system.slice/docker-{ID}.scope")));
            cgroup.container_name().map(str::to_owned)
        };
        assert_eq!(name(), None);
        for (text, expected) in [
            (
                r#"{"StreamConfig":{},"ID":"34dc","Name":"/web-1","Managed":false}"#,
                Some("web-1"),
            ),
            (r#"{"Name":"\u001b[2J"}"#, Some("\u{1b}[2J")),
            (r#"{"Name":"/"}"#, None),
            (r#"{"Name":7}"#, None),
            ("", None),
        ] {
            fs::write(&config, text).unwrap();
            assert_eq!(name().as_deref(), expected, "{text}");
        }
        let long = "x".repeat(600);
        fs::write(&config, format!(r#"{{"Name":"/{long}"}}"#)).unwrap();
        assert_eq!(name(), None);
        // A pipe would wait for a writer for ever.
        fs::remove_file(&config).unwrap();
        mknodat(CWD, &config, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(name(), None);
    }
}
