//! One part of an unfinished upload.

use std::time::SystemTime;

use copyhold_core::domain::Content;
use s3s::dto::Checksum;

use super::object::Body;

#[derive(Debug, Clone)]
pub(super) struct Part {
    pub body: Body,
    pub content: Content,
    pub md5: [u8; 16],
    pub modified: SystemTime,
    pub checksums: Checksum,
}
