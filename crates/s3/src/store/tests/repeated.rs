//! Headers that come several times.

use super::{canned::Canned, *};

#[tokio::test]
async fn metadata_in_several_headers_of_one_name_is_one_with_commas() {
    let answer =
        "200 OK\r\nContent-Length: 0\r\nETag: \"e\"\r\nX-Amz-Meta-A: 1\r\nx-amz-meta-b: 3\r\nx-amz-meta-a: 2\r\n\r\n";
    let server = Canned::new([answer]).await;
    let head = store(&server.endpoint).await.head(&key("k")).await.unwrap();
    let user: Vec<_> = head.metadata.user.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(user, ["a=1,2", "b=3"]);
}
