//! Users and their passwords: basic authentication (RFC 7617) with hashes by bcrypt.
//!
//! A comparison with such a hash takes as long as its maker chose, so it is made in a thread of its own, one at a time, and what was
//! right is remembered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    hmac::{self, HMAC_SHA256, Key, Tag},
    rand::SystemRandom,
};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::file::User;

/// Users by their names.
pub(super) struct Users {
    by_name: HashMap<String, Known>,
    /// A hash for those who are no users, so that these take as long.
    decoy: String,
    /// The key of what is remembered.
    key: Key,
    /// The comparisons: one at a time.
    turn: Arc<Semaphore>,
}

struct Known {
    hash: String,
    /// The password that was right before, by a key that only this process has.
    right: Mutex<Option<Tag>>,
}

impl Users {
    /// `None`: there are none, so anybody is let in.
    ///
    /// *Errors:* the kernel gives no random numbers.
    pub(super) fn new(users: Vec<User>) -> Result<Option<Self>, ring::error::Unspecified> {
        let slowest = users.iter().max_by_key(|user| {
            let parts = user.hash.parse::<bcrypt::HashParts>();
            parts.map_or(0, |parts| parts.get_cost())
        });
        let Some(decoy) = slowest.map(|user| user.hash.clone()) else {
            return Ok(None);
        };
        let users = users.into_iter().map(|user| {
            let known = Known {
                hash: user.hash,
                right: Mutex::default(),
            };
            (user.name, known)
        });
        Ok(Some(Self {
            by_name: users.collect(),
            decoy,
            key: Key::generate(HMAC_SHA256, &SystemRandom::new())?,
            turn: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Whether a request is of a user with the right password.
    pub(super) async fn allow(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else {
            return false;
        };
        let Some((name, password)) = credentials(value.as_bytes()) else {
            return false;
        };
        let user = self.by_name.get(&name);
        if let Some(user) = user
            && let Some(right) = *user.right()
            && hmac::verify(&self.key, &password, right.as_ref()).is_ok()
        {
            return true;
        }
        let hash = user.map_or(&self.decoy, |user| &user.hash).clone();
        // Whoever goes away while it waits makes no work.
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            return false;
        };
        let compared = spawn_blocking(move || {
            let is_right = bcrypt::verify(&password, &hash).unwrap_or(false);
            drop(turn);
            (is_right, password)
        });
        match (user, compared.await) {
            (Some(user), Ok((true, password))) => {
                *user.right() = Some(hmac::sign(&self.key, &password));
                true
            }
            _ => false,
        }
    }
}

impl Known {
    fn right(&self) -> std::sync::MutexGuard<'_, Option<Tag>> {
        // It is replaced whole.
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name and the password of a header.
fn credentials(header: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = header.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    let (name, password) = decoded.split_at_checked(colon)?;
    let name = str::from_utf8(name).ok()?.to_owned();
    Some((name, password.get(1..)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_as_they_are_sent() {
        let of = |header: &str| credentials(header.as_bytes());
        // *Source:* RFC 7617, section 2.
        assert_eq!(
            of("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            Some(("Aladdin".to_owned(), b"open sesame".to_vec()))
        );
        assert_eq!(
            of("basic  QTo6"),
            Some(("A".to_owned(), b":".to_vec())),
            "the first colon ends the name"
        );
        for wrong in [
            "",
            "Basic",
            "Basic ",
            "Basic QQ==",
            "Basic !",
            "Bearer QTo6",
            "Basic /zo6",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
