//! `copyhold sandbox`: serves S3 in memory for trials.

use std::{collections::HashMap, net::SocketAddr, str::FromStr};

use anyhow::{Context as _, bail};
use bytesize::ByteSize;
use copyhold_sandbox::s3::{BucketOptions, GeneratedListing, S3Server, ServerOptions, Synthetic};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Verdict, output};

/// Larger synthetic objects are as if uploaded in parts of this size.
const PART_BYTES: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The buckets to have from the beginning
    #[arg(long, value_delimiter = ',', default_value = "photos-b2,photos-wasabi,photos-scw")]
    buckets: Vec<String>,
    /// Keep only length and hashes of what is uploaded, not the bytes
    #[arg(long)]
    digest_only: bool,
    /// An object whose bytes follow from a seed and take no memory, as BUCKET/KEY:SEED:SIZE; may be given again
    #[arg(long, value_name = "OBJECT")]
    synthetic: Vec<MadeBucket>,
    /// Synthetic objects `object-1` to `object-COUNT`, each of the seed of its number, as BUCKET:COUNT:SIZE
    #[arg(long, value_name = "OBJECTS")]
    numbered: Option<Numbered>,
    /// A listing of so many objects in folders of so many, as BUCKET:COUNT:PER-FOLDER; they cannot be read
    #[arg(long, value_name = "LISTING")]
    generated: Vec<Listing>,
}

/// A bucket whose listing is generated.
#[derive(Debug, Clone)]
struct Listing {
    bucket: String,
    listing: GeneratedListing,
}

impl FromStr for Listing {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let understood = || {
            let (rest, per_folder) = text.rsplit_once(':')?;
            let (bucket, objects) = rest.rsplit_once(':')?;
            let listing = GeneratedListing { objects: objects.parse().ok()?, per_folder: per_folder.parse().ok()? };
            Some(Self { bucket: bucket.to_owned(), listing })
        };
        understood().ok_or("write it like b2:1000000:1000, with the bucket, how many and how many in a folder")
    }
}

/// Synthetic objects that are numbered.
#[derive(Debug, Clone)]
struct Numbered {
    bucket: String,
    count: u64,
    size: ByteSize,
}

impl FromStr for Numbered {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let understood = || {
            let (rest, size) = text.rsplit_once(':')?;
            let (bucket, count) = rest.rsplit_once(':')?;
            Some(Self { bucket: bucket.to_owned(), count: count.parse().ok()?, size: size.parse().ok()? })
        };
        understood().ok_or("write it like b2:1000:10KiB, with the bucket, how many and a size")
    }
}

impl Numbered {
    fn objects(self) -> impl Iterator<Item = MadeBucket> {
        let Self { bucket, count, size } = self;
        (1..=count).map(move |i| MadeBucket {
            bucket: bucket.clone(),
            key: format!("object-{i}"),
            object: Synthetic::new(i, size.as_u64()),
        })
    }
}

/// A synthetic object and its place.
#[derive(Debug, Clone)]
struct MadeBucket {
    bucket: String,
    key: String,
    object: Synthetic,
}

impl FromStr for MadeBucket {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let understood = || {
            // From the end, because a key may hold anything.
            let (rest, size) = text.rsplit_once(':')?;
            let (place, seed) = rest.rsplit_once(':')?;
            let (bucket, key) = place.split_once('/')?;
            let object = Synthetic::new(seed.parse().ok()?, size.parse::<ByteSize>().ok()?.as_u64());
            Some(Self { bucket: bucket.to_owned(), key: key.to_owned(), object })
        };
        understood().ok_or("write it like b2/photo:42:1GiB, with the bucket, the key, a seed and a size")
    }
}

/// Prints endpoint and keys, then serves until a signal.
pub(super) async fn run(args: Args) -> anyhow::Result<Verdict> {
    let buckets = bucket_names(&args.buckets)?;
    let listen = args.listen;
    let server = S3Server::start_with(ServerOptions { listen, ..ServerOptions::default() }).await;
    let server = server.with_context(|| {
        format!("cannot listen on {listen}; name another address with --listen, port 0 for any that is free")
    })?;
    for bucket in buckets {
        let options = if args.digest_only { BucketOptions::digest_only() } else { BucketOptions::default() };
        server.create_bucket(bucket, options);
    }
    for Listing { bucket, listing } in args.generated {
        server.create_bucket(&bucket, BucketOptions::generated(listing));
    }
    let numbered = args.numbered.into_iter().flat_map(Numbered::objects);
    make(&server, args.synthetic.into_iter().chain(numbered)).await?;
    output::line(&format!(
        "endpoint={} access_key_id={} secret_access_key={}",
        server.endpoint(),
        server.access_key_id(),
        server.secret_access_key()
    ))?;
    let stop = CancellationToken::new();
    tokio::spawn(server.run(stop.clone()));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    Ok(Verdict::Good)
}

/// Refuses what no request could name.
fn bucket_names(given: &[String]) -> anyhow::Result<&[String]> {
    for name in given {
        if name.is_empty() {
            bail!("--buckets: a name is empty; write the names with a comma between, like --buckets first,second");
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
            bail!("--buckets: \"{}\" is no name for a bucket; use letters, digits, - and .", name.escape_default());
        }
    }
    Ok(given)
}

/// Reads each object once to hash it, which takes seconds per GiB: so large ones all at the same time, and those that
/// are alike once.
async fn make(server: &S3Server, objects: impl Iterator<Item = MadeBucket>) -> anyhow::Result<()> {
    let known = server.buckets();
    let mut alike = HashMap::<_, Vec<_>>::new();
    for MadeBucket { bucket, key, object } in objects {
        if !known.contains(&bucket) {
            bail!("--synthetic: there is no bucket \"{}\"", bucket.escape_default());
        }
        let bucket = server.bucket(&bucket);
        if object.size_bytes > PART_BYTES {
            alike.entry((object.seed, object.size_bytes)).or_default().push((bucket, key));
        } else {
            bucket.put_synthetic(&key, object);
        }
    }
    let mut making = JoinSet::new();
    for ((seed, size_bytes), places) in alike {
        let object = Synthetic::new(seed, size_bytes);
        making.spawn_blocking(move || {
            let (first, others) = places.split_first()?;
            first.0.put_synthetic_in_parts(&first.1, object, PART_BYTES);
            let etag = first.0.inspect(&first.1)?.etag;
            for (bucket, key) in others {
                bucket.put_synthetic_as(key, object, &etag);
            }
            Some(())
        });
    }
    while let Some(made) = making.join_next().await {
        made.context("a synthetic object could not be made")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_whose_name_no_request_could_have_is_refused() {
        let names = |list: &str| bucket_names(&list.split(',').map(str::to_owned).collect::<Vec<_>>()).map(<[_]>::len);
        assert_eq!(names("first,second.a-b").unwrap(), 2);
        for wrong in ["", "first,,second", "first,", "first, second", "a/b", "a?b"] {
            assert!(names(wrong).unwrap_err().to_string().starts_with("--buckets: "), "{wrong}");
        }
    }

    #[test]
    fn a_synthetic_object_is_read_from_the_end_because_its_key_may_hold_anything() {
        let made: MadeBucket = "b2/a/b:c:42:1GiB".parse().unwrap();
        assert_eq!((made.bucket.as_str(), made.key.as_str()), ("b2", "a/b:c"));
        assert_eq!(made.object, Synthetic::new(42, 1 << 30));
        for wrong in ["b2/photo", "b2/photo:42", "photo:42:1GiB", "b2/photo:x:1GiB", "b2/photo:42:x"] {
            assert!(wrong.parse::<MadeBucket>().is_err(), "{wrong}");
        }
    }
}
