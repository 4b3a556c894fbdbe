//! The user that a service becomes.

use std::io;

use rustix::{
    io::Errno,
    process::{Gid, Uid, getegid, geteuid},
    thread::{set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

/// A user and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// Its only group.
    pub gid: u32,
}

impl User {
    /// Becomes this user, with the capabilities of before. There must be one thread: the system calls are about the calling one.
    pub(super) fn enter(self) -> io::Result<()> {
        let is_same = geteuid().as_raw() == self.uid && getegid().as_raw() == self.gid;
        match set_thread_groups(&[]) {
            // It cannot change its groups, and needs nothing else.
            Err(Errno::PERM) if is_same => return Ok(()),
            done => done?,
        }
        if is_same {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        set_keep_capabilities(true)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
        set_keep_capabilities(false)?;
        Ok(())
    }
}
