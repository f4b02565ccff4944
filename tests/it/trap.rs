//! A proxy that stops a connection at a chosen call: before the server gets it, after the server has done it, or after
//! the answer was delivered. So a daemon can be killed at exactly that moment.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Where a call is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The client has sent it; the server never gets it.
    BeforeTheCall,
    /// The server has done it; the client never hears.
    AfterTheCall,
    /// The client has the answer. Nothing that it sends afterwards goes through.
    AfterTheAnswer,
}

/// One listening address in front of one server.
pub(crate) struct Trap {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    armed: Vec<(&'static str, Moment)>,
    sprung: Vec<&'static str>,
    /// An answer was delivered: everything that follows is held until `open`.
    is_shut: bool,
    counted: Vec<(&'static str, usize)>,
}

impl Trap {
    /// Listens in front of `target`. Counts the calls with one of these texts in them that reach the server.
    pub(crate) fn before(target: &str, counting: &[&'static str]) -> Self {
        let target: SocketAddr = target.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let counted = counting.iter().map(|text| (*text, 0)).collect();
        let state = Mutex::new(State { counted, ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let trap = Self { address, shared: shared.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                std::thread::spawn(move || {
                    if let Ok(server) = TcpStream::connect(target) {
                        shared.carry(&client, &server);
                    }
                });
            }
        });
        trap
    }

    /// Stops the next call with this text in it.
    pub(crate) fn arm(&self, text: &'static str, moment: Moment) {
        self.shared.state.lock().unwrap().armed.push((text, moment));
    }

    /// The calls that were stopped since this was asked last.
    pub(crate) fn sprung(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.shared.state.lock().unwrap().sprung)
    }

    /// Lets new connections through again.
    pub(crate) fn open(&self) {
        self.shared.state.lock().unwrap().is_shut = false;
        self.shared.changed.notify_all();
    }

    /// How many calls with this text reached the server.
    pub(crate) fn count(&self, text: &str) -> usize {
        let state = self.shared.state.lock().unwrap();
        state.counted.iter().find(|(counted, _)| *counted == text).expect("it was to be counted").1
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, client: &TcpStream, server: &TcpStream) {
        let answer = Arc::new(Mutex::new(None));
        let back = {
            let (shared, answer) = (self.clone(), answer.clone());
            let (client, server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || shared.carry_answers(&server, &client, &answer))
        };
        self.carry_calls(client, server, &answer);
        let _ = server.shutdown(Shutdown::Both);
        let _ = client.shutdown(Shutdown::Both);
        let _ = back.join();
    }

    fn carry_calls(&self, mut client: &TcpStream, mut server: &TcpStream, answer: &Mutex<Option<Caught>>) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = client.read(&mut buffer) {
            let chunk = &buffer[..length];
            let mut state = self.state.lock().unwrap();
            while state.is_shut {
                // A killed client is seen when what it sent is passed on; until then nothing goes through.
                state = self.changed.wait(state).unwrap();
            }
            let hit = state.armed.iter().position(|(text, _)| contains(chunk, text));
            if let Some((text, moment)) = hit.map(|hit| state.armed.remove(hit)) {
                if moment == Moment::BeforeTheCall {
                    state.sprung.push(text);
                    return;
                }
                *answer.lock().unwrap() = Some(Caught { text, moment });
            }
            for (_, count) in state.counted.iter_mut().filter(|(text, _)| contains(chunk, text)) {
                *count += 1;
            }
            drop(state);
            if server.write_all(chunk).is_err() {
                return;
            }
        }
    }

    fn carry_answers(&self, mut server: &TcpStream, mut client: &TcpStream, answer: &Mutex<Option<Caught>>) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            let caught = answer.lock().unwrap().take();
            match caught {
                Some(Caught { text, moment: Moment::AfterTheAnswer }) => {
                    self.state.lock().unwrap().is_shut = true;
                    let _ = client.write_all(&buffer[..length]);
                    // Time to read it; what the client then wants to know goes nowhere.
                    std::thread::sleep(Duration::from_millis(100));
                    self.state.lock().unwrap().sprung.push(text);
                }
                Some(Caught { text, moment: Moment::BeforeTheCall | Moment::AfterTheCall }) => {
                    self.state.lock().unwrap().sprung.push(text);
                    return;
                }
                None => {
                    if client.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    }
}

struct Caught {
    text: &'static str,
    moment: Moment,
}

fn contains(chunk: &[u8], text: &str) -> bool {
    chunk.windows(text.len()).any(|window| window == text.as_bytes())
}
