//! Docker's `USER`: `name|uid[:group|gid]`, resolved against the `passwd` and `group` files of the
//! image.
//!
//! The rules are those of `github.com/moby/sys/user`'s `GetExecUser`, which docker, containerd and
//! runc share: a name must exist; a number need not; a user given without a group gets the groups
//! that list its name.

use thiserror::Error;

/// The largest id accepted, `1 << 31 - 1` as in `moby/sys/user`.
const MAX_ID: u32 = i32::MAX as u32;

/// The identity that a command runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, without the primary one.
    pub groups: Vec<u32>,
    /// The home directory in `passwd`; `/` if the user has no entry.
    pub home: Vec<u8>,
}

/// Why a `USER` cannot be resolved in an image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UserError {
    /// Neither a number nor a name in `/etc/passwd`.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// Neither a number nor a name in `/etc/group`.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// The number exceeds the largest that docker accepts.
    #[error("uids and gids must be in range 0-{MAX_ID}: {0}")]
    OutOfRange(String),
}

/// Resolves `spec` with the contents of `/etc/passwd` and `/etc/group` (empty if the image does not
/// have them).
///
/// # Errors
///
/// A [`UserError`] with the reason.
pub fn resolve(spec: &[u8], passwd: &[u8], group: &[u8]) -> Result<Identity, UserError> {
    let (user, group_name) = match spec.iter().position(|&byte| byte == b':') {
        Some(colon) => (&spec[..colon], &spec[colon + 1..]),
        None => (spec, &[][..]),
    };
    let entry = find_user(user, passwd)?;
    let mut identity = entry.identity;
    if group_name.is_empty() {
        if let Some(name) = entry.name {
            identity.groups = groups_of(name, group);
            identity.groups.retain(|&gid| gid != identity.gid);
        }
    } else {
        identity.gid = find_group(group_name, group)?;
    }
    Ok(identity)
}

/// Returns the ids of groups; each is a name in `/etc/group` or a number, which need not be in it.
///
/// # Errors
///
/// A [`UserError`] with the reason.
pub fn additional_groups(names: &[Vec<u8>], group: &[u8]) -> Result<Vec<u32>, UserError> {
    names.iter().map(|name| find_group(name, group)).collect()
}

struct UserEntry<'a> {
    identity: Identity,
    name: Option<&'a [u8]>,
}

fn find_user<'a>(user: &[u8], passwd: &'a [u8]) -> Result<UserEntry<'a>, UserError> {
    let number = parse_number(user);
    // An empty user is root, even if its entry has another name.
    let wanted = if user.is_empty() { Some(0) } else { number };
    for line in lines(passwd) {
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(name), Some(_), Some(uid), Some(gid)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (Some(uid), Some(gid)) = (parse_number(uid), parse_number(gid)) else {
            continue;
        };
        if (!user.is_empty() && name == user) || wanted == Some(uid) {
            let home = fields.nth(1).filter(|home| !home.is_empty());
            return Ok(UserEntry {
                identity: Identity {
                    uid: in_range(uid, user)?,
                    gid: in_range(gid, user)?,
                    groups: Vec::new(),
                    home: home.unwrap_or(b"/").to_vec(),
                },
                name: Some(name),
            });
        }
    }
    let uid = wanted.ok_or_else(|| UserError::UnknownUser(lossy(user)))?;
    let home: &[u8] = if user.is_empty() { b"/root" } else { b"/" };
    Ok(UserEntry {
        identity: Identity {
            uid: in_range(uid, user)?,
            gid: 0,
            groups: Vec::new(),
            home: home.to_vec(),
        },
        name: None,
    })
}

fn find_group(wanted: &[u8], group: &[u8]) -> Result<u32, UserError> {
    let number = parse_number(wanted);
    for line in lines(group) {
        let mut fields = line.split(|&byte| byte == b':');
        let (Some(name), Some(_), Some(gid)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Some(gid) = parse_number(gid) else {
            continue;
        };
        if name == wanted || number == Some(gid) {
            return in_range(gid, wanted);
        }
    }
    let gid = number.ok_or_else(|| UserError::UnknownGroup(lossy(wanted)))?;
    in_range(gid, wanted)
}

/// Returns the groups whose member list contains `user`, in the file's order.
fn groups_of(user: &[u8], group: &[u8]) -> Vec<u32> {
    let mut gids = Vec::new();
    for line in lines(group) {
        let mut fields = line.split(|&byte| byte == b':');
        let gid = fields.nth(2).and_then(parse_number);
        let members = fields.next().unwrap_or_default();
        if let Some(gid) = gid
            && gid <= u64::from(MAX_ID)
            && members
                .split(|&byte| byte == b',')
                .any(|member| member == user)
            && let Ok(gid) = u32::try_from(gid)
            && !gids.contains(&gid)
        {
            gids.push(gid);
        }
    }
    gids
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn parse_number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // A number that is too long to parse is out of range, not a name.
    Some(
        std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(u64::MAX),
    )
}

fn in_range(id: u64, spec: &[u8]) -> Result<u32, UserError> {
    u32::try_from(id)
        .ok()
        .filter(|&id| id <= MAX_ID)
        .ok_or_else(|| UserError::OutOfRange(lossy(spec)))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\n# comment\ndaemon:x:1:1::/usr/sbin:\nbad line\n\
        app:x:1000:1000:App:/home/app:/bin/bash\n1234:x:77:78::/named:\n";
    const GROUP: &[u8] = b"root:x:0:\nadm:x:4:app,daemon\nstaff:x:50:app\nown:x:1000:app\n";

    fn resolved(spec: &str) -> (u32, u32, Vec<u32>, String) {
        let identity = resolve(spec.as_bytes(), PASSWD, GROUP).unwrap();
        let home = String::from_utf8(identity.home).unwrap();
        (identity.uid, identity.gid, identity.groups, home)
    }

    #[test]
    fn missing_user_means_root() {
        assert_eq!(resolved(""), (0, 0, vec![], "/root".into()));
    }

    #[test]
    fn a_name_gets_its_groups_and_home() {
        assert_eq!(
            resolved("app"),
            (1000, 1000, vec![4, 50], "/home/app".into())
        );
    }

    #[test]
    fn a_number_with_an_entry_is_that_user() {
        assert_eq!(
            resolved("1000"),
            (1000, 1000, vec![4, 50], "/home/app".into())
        );
    }

    #[test]
    fn a_number_without_an_entry_is_used_unchanged() {
        assert_eq!(resolved("4242"), (4242, 0, vec![], "/".into()));
        assert_eq!(resolved("4242:4343"), (4242, 4343, vec![], "/".into()));
    }

    #[test]
    fn a_group_given_replaces_all_others() {
        assert_eq!(resolved("app:adm"), (1000, 4, vec![], "/home/app".into()));
    }

    #[test]
    fn empty_user_or_group_counts_as_missing() {
        assert_eq!(resolved("1000:"), resolved("1000"));
        assert_eq!(resolved("app:"), resolved("app"));
        assert_eq!(resolved(":"), resolved(""));
        assert_eq!(resolved(":100"), (0, 100, vec![], "/root".into()));
    }

    #[test]
    fn files_with_other_line_ends_or_without_a_last_newline_are_read() {
        let passwd = b"\n\nroot:x:0:0::/root:/bin/sh\r\napp:x:1000:1000::/home/app:/bin/sh";
        let group = b"root:x:0:\r\nadm:x:4:daemon,app\r\nstaff:x:50:app";
        let identity = resolve(b"app", passwd, group).unwrap();
        assert_eq!(
            (identity.uid, identity.gid, identity.groups, identity.home),
            (1000, 1000, vec![4, 50], b"/home/app".to_vec())
        );
    }

    #[test]
    fn a_name_made_of_digits_is_found_before_the_number() {
        assert_eq!(resolved("1234"), (77, 78, vec![], "/named".into()));
    }

    #[test]
    fn additional_groups_are_names_or_numbers() {
        let named = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
            additional_groups(&names, GROUP)
        };
        assert_eq!(named(&["staff", "4", "4242"]), Ok(vec![50, 4, 4242]));
        assert_eq!(
            named(&["wheel"]),
            Err(UserError::UnknownGroup("wheel".into()))
        );
    }

    #[test]
    fn unknown_names_are_errors() {
        assert_eq!(
            resolve(b"nobody", PASSWD, GROUP),
            Err(UserError::UnknownUser("nobody".into()))
        );
        assert_eq!(
            resolve(b"app:wheel", PASSWD, GROUP),
            Err(UserError::UnknownGroup("wheel".into()))
        );
        assert_eq!(
            resolve(b"4294967296", PASSWD, GROUP),
            Err(UserError::OutOfRange("4294967296".into()))
        );
    }

    #[test]
    fn an_image_without_passwd_still_has_root() {
        let identity = resolve(b"", b"", b"").unwrap();
        assert_eq!((identity.uid, identity.gid), (0, 0));
    }
}
