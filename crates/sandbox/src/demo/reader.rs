//! Reads all objects back and compares them with the application's, byte by byte.
//!
//! It shares no code with the engine: it makes its own requests and compares with the generator's bytes.

use std::collections::HashSet;

use aws_sdk_s3::{
    Client,
    error::{ProvideErrorMetadata as _, SdkError},
    operation::get_object::{GetObjectError, GetObjectOutput},
};
use futures::{StreamExt as _, stream};

use super::{
    REPLICAS,
    client::AT_ONCE,
    environment::{Environment, bucket},
    objects::{Metadata, Object},
    summary::{Comparison, Finding},
};

#[derive(Debug)]
pub(super) struct Reader(Client);

/// The result of reading one object at one replica.
#[derive(Debug)]
enum ReadResult {
    Equal,
    Missing,
    Wrong(String),
}

impl Reader {
    pub(super) fn new(environment: &Environment) -> anyhow::Result<Self> {
        Ok(Self(environment.client()?))
    }

    /// Compares every object at every replica, and finds objects that should not be there. `told` gets the number done.
    pub(super) async fn compare_all(
        &self,
        environment: &Environment,
        objects: &[Object],
        told: impl Fn(usize),
    ) -> Comparison {
        let mut comparison = self.compare(objects.iter(), told).await;
        let known: HashSet<&str> = objects.iter().map(|object| object.key.as_str()).collect();
        for replica in REPLICAS {
            // Read in this process instead of by a listing, because a listing cannot represent every key.
            for key in environment.bucket(replica).keys().into_iter().filter(|key| !known.contains(key.as_str())) {
                comparison.extra += 1;
                comparison.keep(finding(replica, &key, "it was never uploaded"));
            }
        }
        comparison
    }

    /// Compares these objects at every replica.
    pub(super) async fn compare<'a>(
        &self,
        objects: impl Iterator<Item = &'a Object>,
        told: impl Fn(usize),
    ) -> Comparison {
        let looks = objects.flat_map(|object| REPLICAS.map(|replica| (object, replica)));
        let mut found = stream::iter(looks)
            .map(async |(object, replica)| (object, replica, self.look(object, replica).await))
            .buffer_unordered(AT_ONCE);
        let mut comparison = Comparison::default();
        while let Some((object, replica, found)) = found.next().await {
            comparison.compared += 1;
            match found {
                ReadResult::Equal => comparison.compared_bytes += object.size_bytes(),
                ReadResult::Missing => {
                    comparison.missing += 1;
                    comparison.keep(finding(replica, &object.key, "it is not there"));
                }
                ReadResult::Wrong(how) => {
                    comparison.wrong += 1;
                    comparison.keep(finding(replica, &object.key, &how));
                }
            }
            told(comparison.compared);
        }
        comparison
    }

    async fn look(&self, object: &Object, replica: &str) -> ReadResult {
        match self.0.get_object().bucket(bucket(replica)).key(&object.key).send().await {
            Ok(answer) => match differing(&object.metadata, &answer) {
                Some(how) => ReadResult::Wrong(how),
                None => bytes_of(object, answer).await,
            },
            Err(error) if is_missing(&error) => ReadResult::Missing,
            Err(error) => ReadResult::Wrong(format!("it cannot be read: {}", said(&error))),
        }
    }
}

fn is_missing(error: &SdkError<GetObjectError>) -> bool {
    error.as_service_error().is_some_and(GetObjectError::is_no_such_key)
}

fn said(error: &SdkError<GetObjectError>) -> String {
    let (code, message) = (error.code().unwrap_or("no answer"), error.message());
    message.map_or_else(|| format!("{code} ({error})"), |message| format!("{code}: {message}"))
}

/// Returns the first header that is not as the application sent it.
fn differing(wanted: &Metadata, answer: &GetObjectOutput) -> Option<String> {
    let headers = [
        ("content-type", wanted.content_type, &answer.content_type),
        ("cache-control", wanted.cache_control, &answer.cache_control),
        ("content-disposition", wanted.content_disposition, &answer.content_disposition),
    ];
    for (name, wanted, found) in headers {
        // The store chooses a header that was not sent: S3 then returns the type binary/octet-stream.
        if wanted.is_some() && found.as_deref() != wanted {
            return Some(format!("{name} is {found:?} instead of {wanted:?}"));
        }
    }
    let found = answer.metadata.clone().unwrap_or_default().into_iter().collect();
    (wanted.user != found).then(|| format!("its user metadata is {found:?} instead of {:?}", wanted.user))
}

async fn bytes_of(object: &Object, mut answer: GetObjectOutput) -> ReadResult {
    let size_bytes = object.size_bytes();
    let mut at = 0;
    loop {
        let chunk = match answer.body.next().await {
            None => break,
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => return ReadResult::Wrong(format!("it cannot be read beyond byte {at}: {error}")),
        };
        let end = at + chunk.len() as u64;
        if end > size_bytes {
            return ReadResult::Wrong(format!("it is longer than {size_bytes} bytes"));
        }
        let mut rest = &chunk[..];
        for piece in object.content.pieces(at..end) {
            let (these, others) = rest.split_at(piece.len());
            if these != piece {
                let differs = these.iter().zip(&piece).take_while(|(found, wanted)| found == wanted).count();
                return ReadResult::Wrong(format!("byte {} differs", at + differs as u64));
            }
            at += piece.len() as u64;
            rest = others;
        }
    }
    if at < size_bytes {
        ReadResult::Wrong(format!("it ends after {at} of {size_bytes} bytes"))
    } else {
        ReadResult::Equal
    }
}

fn finding(replica: &str, key: &str, how: &str) -> Finding {
    Finding { replica: replica.to_owned(), key: key.to_owned(), how: how.to_owned() }
}
