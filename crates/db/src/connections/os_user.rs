//! The role where a database URL names none: the user of the operating system, as in libpq.
//! The driver finds the user only with a feature of a library that it does not enable, and otherwise uses "anonymous".

use std::{borrow::Cow, env, fs};

use rustix::process::getuid;

use crate::database_url::ServerUrl;

/// Returns the server's URL with a role. It is unchanged if it or PGUSER names one, or the user is unknown.
/// In the URL, so that the lookup in a password file uses this role.
pub(super) fn with_role(server: &ServerUrl) -> Cow<'_, str> {
    if server.names_role || env::var_os("PGUSER").is_some() {
        return server.url.as_str().into();
    }
    user().map_or_else(|| server.url.as_str().into(), |user| server.of_role(&user).into())
}

fn user() -> Option<String> {
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    // Users of a directory service are in no file.
    account(&accounts, getuid().as_raw()).or_else(|| env::var("USER").ok()).or_else(|| env::var("LOGNAME").ok())
}

/// The name of the account with this number, of lines as in /etc/passwd.
fn account(accounts: &str, number: u32) -> Option<String> {
    let number = number.to_string();
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
        (fields.nth(1)? == number).then_some(name)
    };
    accounts.lines().find_map(of_line)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use sqlx::postgres::PgConnectOptions;

    use super::*;
    use crate::database_url::each_server;

    fn server(url: &str) -> ServerUrl {
        each_server(url).unwrap().remove(0)
    }

    #[test]
    fn a_url_without_a_role_gets_that_of_the_account_and_one_with_a_role_keeps_it() {
        for named in [
            "postgres://me@h/app",
            "postgres://me:secret@h/app",
            "postgres:///app?host=/run&user=me",
            // With several servers, and with one on a socket.
            "postgres://me@a,b/app",
            "postgres://me@%2Frun%2Fpg/app",
        ] {
            let server = server(named);
            assert!(server.names_role, "{named}");
            assert_eq!(PgConnectOptions::from_str(&with_role(&server)).unwrap().get_username(), "me", "{named}");
        }
        for bare in [
            "postgres:///app?host=/var/run/postgresql",
            "postgres://h:5433/app",
            "postgresql://h",
            "postgres://",
            "postgres:///app?user=",
            "postgres://a,b/app",
        ] {
            let server = server(bare);
            assert!(!server.names_role, "{bare}");
            assert_eq!(PgConnectOptions::from_str(&server.of_role("a me")).unwrap().get_username(), "a me", "{bare}");
        }
        let accounts = "root:x:0:0:root:/root:/bin/bash\nbroken\n:x:7:\nme:x:1000:1000::/home/me:/bin/sh\n";
        assert_eq!(account(accounts, 1000).as_deref(), Some("me"));
        assert_eq!(account(accounts, 0).as_deref(), Some("root"));
        assert_eq!(account(accounts, 1), None);
        assert_eq!(account(accounts, 7), None);
    }

    #[test]
    fn the_user_of_this_process_is_known() {
        let options = PgConnectOptions::from_str(&with_role(&server("postgres:///app"))).unwrap();
        assert_ne!(options.get_username(), "anonymous");
    }
}
