use super::*;

async fn answer(url: &str) -> Result<i32, sqlx::Error> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query_scalar("select 1").fetch_one(&mut connection).await
}

#[tokio::test]
async fn a_cluster_answers_and_is_gone_after_stop() {
    let cluster = Cluster::start(Options::for_tests()).await.unwrap();
    let (folder, url) = (cluster.folder().to_path_buf(), cluster.url("postgres"));
    assert_eq!(answer(&url).await.unwrap(), 1);
    assert_eq!(answer(&cluster.socket_url("postgres")).await.unwrap(), 1);
    assert!(folder.exists());
    cluster.stop().await.unwrap();
    assert!(!folder.exists());
    assert!(answer(&url).await.is_err());
}
