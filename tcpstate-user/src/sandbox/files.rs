//! The files that a thread may read, and the TCP ports that it may connect to: by Landlock.

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
    path_beneath_rules,
};

/// Lets this thread, and those that it starts, only read files, and only those below these folders, and connect by TCP to these ports
/// only. Returns whether the kernel forbids anything.
pub(super) fn confine(folders: &[PathBuf], ports: &[u16]) -> Result<bool, RulesetError> {
    /// The newest that this was written for.
    const KNOWN: ABI = ABI::V5;
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .create()?
        .add_rules(path_beneath_rules(folders, read))?
        .add_rules(
            ports
                .iter()
                .map(|&port| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::ConnectTcp))),
        )?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
