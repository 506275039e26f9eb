//! What cannot be a replica, or cannot be one beside the others.

use super::*;

#[test]
fn the_primary_must_be_a_replica_that_may_be_read() {
    Case::least_with("primary = \"b2\"", "primary = \"garage\"").is_refused(&[(
        "copyhold.toml:1:11: primary is \"garage\", but there is no [replicas.garage]",
        "name one of b2, wasabi, or write a section for it",
    )]);
    Case::least_with("access_key_id", "read = false\naccess_key_id").is_refused(&[(
        "copyhold.toml:7:8: replicas.b2.read is false, but it is the primary, which everything is read from",
        "set it to true, or name another primary",
    )]);
}

#[test]
fn one_replica_alone_has_nothing_to_copy_to() {
    let one = LEAST.split("[replicas.wasabi]").next().unwrap();
    Case::of(one).is_refused(&[(
        "copyhold.toml:4:11: replicas.b2 is the only replica: there is nothing to copy to",
        "write a section [replicas.NAME] for the bucket that is to hold the copies",
    )]);
}

#[test]
fn two_replicas_in_one_bucket_are_recognised_however_the_endpoint_is_written() {
    for same in ["https://s3.example.com", "HTTPS://S3.EXAMPLE.COM:443/"] {
        Case::least_with("https://s3.wasabisys.com", same).is_refused(&[(
            "copyhold.toml:11:10: replicas.wasabi is the same bucket as replicas.b2: \"photos\" at https://s3.example.com/",
            "give it a bucket of its own, or remove one of the two sections",
        )]);
    }
    let plain = LEAST.replace("https://s3.wasabisys.com\"", "http://s3.example.com\"\ninsecure = true");
    Case::of(plain).is_refused(&[(
        "copyhold.toml:12:10: replicas.wasabi is the same bucket as replicas.b2: \"photos\" at http://s3.example.com/",
        "give it a bucket of its own, or remove one of the two sections",
    )]);
    let another_bucket = LEAST
        .replace("https://s3.wasabisys.com\"\nbucket = \"photos\"", "https://s3.example.com\"\nbucket = \"copies\"");
    assert!(Case::of(another_bucket).load().is_ok());
}

#[test]
fn a_replica_name_must_be_able_to_be_a_column() {
    Case::of(LEAST.replace("wasabi]", "\"Wasabi EU\"]")).is_refused(&[(
        "copyhold.toml:9:11: replicas.Wasabi EU is no name for a replica, because it becomes part of a column's",
        "begin with a lower-case letter, then up to 30 of a-z, 0-9 and _",
    )]);
    for taken in ["lease", "object_key", "due_b2", "xmin"] {
        Case::of(LEAST.replace("wasabi]", &format!("{taken}]"))).is_refused(&[(
            &format!("copyhold.toml:9:11: replicas.{taken} has the name of a column that the table has anyway"),
            "give it another name",
        )]);
    }
}

#[test]
fn an_endpoint_is_a_scheme_a_host_and_a_port() {
    let form = "write it as https://HOST or https://HOST:PORT";
    let end = "end it there; the bucket has a setting of its own";
    for (endpoint, what, todo) in [
        ("s3.example.com", "has no scheme", form),
        ("localhost:9000", "has no scheme", form),
        ("ftp://s3.example.com", "begins neither with https:// nor with http://", form),
        ("https://", "is not a URL: empty host", form),
        ("https://s3.example.com:99999", "is not a URL: invalid port number", form),
        ("https://s3.example.com/photos", "has something after the host", end),
        ("https://s3.example.com?x=1", "has something after the host", end),
        ("https://key:geheim@s3.example.com", "holds credentials", "move them to access_key_id and secret_access_key"),
    ] {
        let what = format!("copyhold.toml:5:12: replicas.b2.endpoint {what}");
        Case::least_with("https://s3.example.com", endpoint).is_refused(&[(&what, todo)]);
    }
}

#[test]
fn plain_http_to_another_host_needs_insecure() {
    Case::least_with("https://s3.example.com", "http://s3.example.com").is_refused(&[(
        "copyhold.toml:5:12: replicas.b2.endpoint is plain http to s3.example.com",
        "write https://, or set insecure = true in this section if that network is private",
    )]);
    assert!(Case::least_with("https://s3.example.com\"", "http://s3.example.com\"\ninsecure = true").load().is_ok());
    for near in ["http://localhost:9000", "http://127.0.0.1:9000", "http://[::1]:9000"] {
        assert!(Case::least_with("https://s3.example.com", near).load().is_ok(), "{near}");
    }
}

#[test]
fn a_bucket_that_cannot_be_in_a_url_is_refused() {
    for bad in ["ab", "photos/2024", "my photos"] {
        Case::least_with("bucket = \"photos\"", &format!("bucket = {bad:?}")).is_refused(&[(
            &format!("copyhold.toml:6:10: replicas.b2.bucket is {bad:?}, which is no bucket's name"),
            "3 to 63 of a-z, 0-9, '.' and '-' make a bucket's name; the bucket alone, no folder in it",
        )]);
    }
}

#[test]
fn virtual_hosts_are_refused_where_the_bucket_cannot_be_part_of_a_host() {
    let todo = "set it to true";
    for (endpoint, bucket, why) in [
        ("http://127.0.0.1:9000", "photos", "the endpoint is an address, which a bucket cannot stand in front of"),
        ("https://s3.example.com", "Old_Photos", "the bucket's name cannot be part of a host's"),
        ("https://s3.example.com", "my.photos", "no certificate covers a bucket's name with a dot in it"),
    ] {
        let text = LEAST.replacen("https://s3.example.com", endpoint, 1);
        let text = text.replacen("\"photos\"", &format!("{bucket:?}\npath_style = false"), 1);
        let what = format!("copyhold.toml:7:14: replicas.b2.path_style is false, but {why}");
        Case::of(text).is_refused(&[(&what, todo)]);
    }
    assert!(Case::least_with("\"photos\"", "\"photos\"\npath_style = false").load().is_ok());
}

#[test]
fn an_unknown_provider_and_impossible_facts_are_refused_all_at_once() {
    let told = "provider = \"backblaze\"\nmax_parts = 0\nmax_put = \"1MiB\"\nmax_key_bytes = 1025\n\
                checks_md5 = \"yes\"\nmax_part = 7\naccess_key_id";
    Case::least_with("access_key_id", told).is_refused(&[
        (
            "copyhold.toml:7:12: replicas.b2.provider is \"backblaze\", not one of \"aws\", \"b2\", \"wasabi\", \"scaleway\", \
             \"r2\", \"minio\", \"garage\", \"ceph\", \"generic\"",
            "write \"aws\" or \"b2\" or \"wasabi\" or \"scaleway\" or \"r2\" or \"minio\" or \"garage\" or \"ceph\" or \"generic\"",
        ),
        (
            "copyhold.toml:8:13: replicas.b2.max_parts is 0, less than 1",
            "set it to something from 1 to 10000",
        ),
        (
            "copyhold.toml:9:11: replicas.b2.max_put is 1MiB, less than 5MiB",
            "set it to something from 5MiB to 5GiB",
        ),
        (
            "copyhold.toml:10:17: replicas.b2.max_key_bytes is 1025, more than 1024",
            "set it to something from 1 to 1024",
        ),
        (
            "copyhold.toml:11:14: replicas.b2.checks_md5 is text, where true or false is needed",
            "write true or false, without quotes",
        ),
        ("copyhold.toml:12:1: there is no setting replicas.b2.max_part", "did you mean max_parts?"),
    ]);
}

#[test]
fn empty_and_unprintable_texts_are_refused() {
    Case::least_with("access_key_id", "storage_class = \"\"\nregion = \"eu west\"\naccess_key_id").is_refused(&[
        ("copyhold.toml:7:17: replicas.b2.storage_class is empty", "give it a value, or remove it"),
        (
            "copyhold.toml:8:10: replicas.b2.region is \"eu west\", which cannot be the name of a region",
            "use letters, digits and punctuation, no blanks",
        ),
    ]);
}
