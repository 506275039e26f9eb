use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A daemon's metrics at one moment.
pub struct Metrics(String);

impl Metrics {
    pub(super) async fn of(address: &str) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        Ok(Self(page))
    }

    /// Returns the sum of the series of this name that have this label, written `le="0.01"`, or of all if it is empty.
    /// 0 if there is none.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let is_it = labels.is_empty() || labels.starts_with('{');
            (is_it && labels.contains(label)).then(|| value.parse::<f64>().ok())?
        };
        self.0.lines().filter_map(value).sum()
    }
}
