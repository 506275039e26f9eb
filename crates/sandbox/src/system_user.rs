use std::{ffi::OsStr, fs, path::Path};

use tokio::process::Command;

use super::error::SandboxError;

/// The system's user that a PostgreSQL cluster runs as if this process is root, which PostgreSQL refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SystemUser {
    pub(super) name: String,
    uid: u32,
    gid: u32,
}

impl SystemUser {
    /// Returns `None` for an ordinary user, who needs no other. Root becomes `postgres` or else `nobody`.
    pub(super) fn if_root() -> Result<Option<Self>, SandboxError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = ["postgres", "nobody"].iter().find_map(|name| Self::named(name, &passwd));
        found.map(Some).ok_or(SandboxError::NoAccount)
    }

    fn named(name: &str, passwd: &str) -> Option<Self> {
        let mut fields = passwd.lines().map(|line| line.split(':')).find_map(|mut fields| {
            let found = fields.next() == Some(name);
            found.then_some(fields)
        })?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then(|| Self { name: name.to_owned(), uid, gid })
    }
}

/// Makes a command of that user in a process group of its own, so that Ctrl-C does not reach it,
/// and without libpq's variables, which would point it to another server.
pub(super) fn command(program: impl AsRef<OsStr>, account: Option<&SystemUser>) -> Command {
    let mut command = Command::new(program);
    // The user may have no right to the current folder.
    command.current_dir(Path::new("/")).process_group(0);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"PG") {
            command.env_remove(name);
        }
    }
    // Messages are in English, because some are parsed; and initdb need not search for the zone.
    command.env("LC_ALL", "C").env("TZ", "UTC");
    if let Some(SystemUser { uid, gid, .. }) = account {
        // Also drops root's supplementary groups.
        command.uid(*uid).gid(*gid);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name_and_is_never_root() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:104:,,,:/var:/bin/sh\nx:x:0:0:::\n";
        let found = SystemUser::named("postgres", passwd);
        assert_eq!(found, Some(SystemUser { name: "postgres".to_owned(), uid: 101, gid: 104 }));
        assert_eq!(SystemUser::named("nobody", passwd), None);
        assert_eq!(SystemUser::named("x", passwd), None);
    }
}
