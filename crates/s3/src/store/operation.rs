/// The calls that we make, by the names that the stores' documents give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Connect,
    GetObject,
    HeadObject,
    HeadBucket,
    PutObject,
    CreateMultipartUpload,
    UploadPart,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListObjects,
    ListParts,
    ListObjectVersions,
    ListMultipartUploads,
    DeleteObject,
    GetBucketVersioning,
    GetObjectLockConfiguration,
}

impl Operation {
    /// Whether it waits for its turn while the store throttles. What looks after a store must not wait behind what it
    /// is to judge, and what throws parts away has little time.
    pub(super) const fn is_paced(self) -> bool {
        match self {
            Self::Connect
            | Self::GetObject
            | Self::HeadObject
            | Self::PutObject
            | Self::CreateMultipartUpload
            | Self::UploadPart
            | Self::CompleteMultipartUpload => true,
            Self::HeadBucket
            | Self::AbortMultipartUpload
            | Self::ListObjects
            | Self::ListParts
            | Self::ListObjectVersions
            | Self::ListMultipartUploads
            | Self::DeleteObject
            | Self::GetBucketVersioning
            | Self::GetObjectLockConfiguration => false,
        }
    }

    /// Its answer describes one object.
    pub(super) const fn reads_an_object(self) -> bool {
        matches!(self, Self::GetObject | Self::HeadObject)
    }

    /// Its request has an object's bytes.
    pub(super) const fn sends_bytes(self) -> bool {
        matches!(self, Self::PutObject | Self::UploadPart)
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "Connect",
            Self::GetObject => "GetObject",
            Self::HeadObject => "HeadObject",
            Self::HeadBucket => "HeadBucket",
            Self::PutObject => "PutObject",
            Self::CreateMultipartUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::CompleteMultipartUpload => "CompleteMultipartUpload",
            Self::AbortMultipartUpload => "AbortMultipartUpload",
            Self::ListObjects => "ListObjectsV2",
            Self::ListParts => "ListParts",
            Self::ListObjectVersions => "ListObjectVersions",
            Self::ListMultipartUploads => "ListMultipartUploads",
            Self::DeleteObject => "DeleteObject",
            Self::GetBucketVersioning => "GetBucketVersioning",
            Self::GetObjectLockConfiguration => "GetObjectLockConfiguration",
        }
    }
}
