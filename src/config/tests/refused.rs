use super::*;

#[test]
fn a_dozen_problems_are_reported_at_once_in_the_order_of_the_file() {
    let case = Case::of(
        r#"primary = "b3"
[database]
url = "postgres://copyhold:geheim@db.internal/app"
[replicas.b2]
endpoint = "s3.example.com"
bucket = "photos"
access_key_id = { env = "B2_KEY_ID" }
secret_access_key = { file = "b2_secret" }
[replicas.lock]
endpoint = "http://s3.example.com"
bucket = "copies"
credentials = "ambient"
[workers]
cuont = 16
memory = "1MiB"
[lease]
timeout = "90s"
heartbeat = "80s"
[sweeper]
every = 30
"#,
    )
    .env("COPYHOLD_LOG__FORMAT", "jsno");
    insta::assert_snapshot!(case.report(), @r#"
    copyhold.toml:1:11: primary is "b3", but there is no [replicas.b3]
        did you mean "b2"?
    copyhold.toml:3:7: database.url leads to another host without proof that it is the right one
        append ?sslmode=verify-full (and &sslrootcert=/path/to/ca.pem for an authority of your own), or set database.insecure = true if nobody else is on that network
    copyhold.toml:5:12: replicas.b2.endpoint has no scheme
        write it as https://HOST or https://HOST:PORT
    copyhold.toml:7:25: replicas.b2.access_key_id names the variable B2_KEY_ID, which is not set
        set B2_KEY_ID in the daemon's environment, or name another
    copyhold.toml:8:30: replicas.b2.secret_access_key names the file b2_secret, which does not exist
        create it, or correct the path
    copyhold.toml:9:11: replicas.lock has the name of a column that the table has anyway
        give it another name
    copyhold.toml:10:12: replicas.lock.endpoint is plain http to s3.example.com
        write https://, or set insecure = true in this section if nobody else is on that network
    copyhold.toml:14:1: there is no setting workers.cuont
        did you mean count?
    copyhold.toml:15:10: workers.memory is 1MiB, less than 32MiB
        set it to something from 32MiB to 1TiB
    copyhold.toml:18:13: lease.heartbeat is 80s, not well under lease.timeout of 90s
        set it to a third of the timeout or less: 30s
    copyhold.toml:20:9: sweeper.every is a whole number, where a duration is needed
        write a number with its unit in quotes: "500ms", "90s", "5m" or "1h 30m"
    COPYHOLD_LOG__FORMAT: log.format is "jsno", not one of "auto", "text", "json"
        did you mean "json"?
    "#);
}
