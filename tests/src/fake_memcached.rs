//! A server that speaks memcached's protocol as badly as a test wants it to.

use std::io::{self, BufRead as _, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What it does with one line.
#[derive(Clone, Debug)]
pub enum Act {
    /// Lines, each with its end.
    Say(String),
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// One byte at a time.
    Drip(String),
    /// Nothing, and it does not go away.
    Hang,
    Close,
}

/// Lives until the test ends.
#[derive(Debug)]
pub struct FakeMemcached {
    port: u16,
    /// Every line that came, of all connections.
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
}

impl FakeMemcached {
    /// `act` is told each line and the number of the connection, from nought.
    pub fn start(act: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let (heard, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(AtomicUsize::new(0)));
        let (act, log, count) = (Arc::new(act), Arc::clone(&heard), Arc::clone(&connections));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (act, log, number) = (Arc::clone(&act), Arc::clone(&log), count.fetch_add(1, SeqCst));
                // A client that goes away ends its thread.
                thread::spawn(move || serve(stream, &log, |line| act(line, number)));
            }
        });
        Ok(Self { port, heard, connections })
    }

    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
    #[must_use]
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().expect("no connection panics").clone()
    }
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

fn serve(stream: TcpStream, heard: &Mutex<Vec<String>>, act: impl Fn(&str) -> Act) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        heard.lock().expect("no connection panics").push(line.clone());
        match act(&line) {
            Act::Say(text) => out.write_all(crlf(&text).as_bytes())?,
            Act::Bytes(bytes) => out.write_all(&bytes)?,
            Act::Drip(text) => {
                for byte in crlf(&text).bytes() {
                    out.write_all(&[byte])?;
                    thread::sleep(Duration::from_micros(200));
                }
            }
            Act::Hang => {}
            Act::Close => return out.shutdown(std::net::Shutdown::Both),
        }
    }
    Ok(())
}

fn crlf(text: &str) -> String {
    text.lines().map(|line| format!("{line}\r\n")).collect()
}

/// What a healthy server of these figures answers: pool, evictions, and for each class id, chunk size, age, free chunks, pages;
/// moves are answered with `OK`.
#[must_use]
pub fn healthy(line: &str, pid: u32, pool: u64, evictions: u64, classes: &[(u8, u64, u64, u64, u64)]) -> Act {
    let mut text = String::new();
    match line {
        "stats" => {
            text.push_str(&format!("STAT pid {pid}\nSTAT uptime 10\nSTAT time 1000\n"));
            text.push_str(&format!("STAT evictions {evictions}\nSTAT slab_global_page_pool {pool}\nEND"));
        }
        "stats items" => {
            for (id, _, age, ..) in classes {
                text.push_str(&format!("STAT items:{id}:number 1\nSTAT items:{id}:age {age}\nSTAT items:{id}:evicted 7\n"));
            }
            text.push_str("END");
        }
        "stats slabs" => {
            for (id, size, _, free, pages) in classes {
                text.push_str(&format!(
                    "STAT {id}:chunk_size {size}\nSTAT {id}:chunks_per_page 100\nSTAT {id}:total_pages {pages}\n"
                ));
                text.push_str(&format!("STAT {id}:used_chunks 10\nSTAT {id}:free_chunks {free}\n"));
            }
            text.push_str("END");
        }
        "stats settings" => text.push_str("STAT slab_automove 1\nEND"),
        "mn" => text.push_str("MN"),
        _ => text.push_str("OK"),
    }
    Act::Say(text)
}
