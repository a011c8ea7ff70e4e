//! Pushes objects to a node and finalises them again, and says how fast that was.
//!
//! `cargo run -p dpc-client --example rate -- 127.0.0.1:50051 100000`

use std::time::Instant;

use dpc_client::{Client, Object, Options, Window};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    let count: usize = args.next().map_or(Ok(100_000), |text| text.parse())?;
    let client = Client::connect([address], Options::new().fail_fast(true))?;

    let began = Instant::now();
    let pusher = client.push_stream(Window::default());
    let payload = bytes::Bytes::from(vec![b'x'; 200]);
    for _ in 0..count {
        pusher.send(Object::new("dpc.example.Rate", payload.clone())).await?;
    }
    pusher.close().await?;
    println!("pushed    {:>9.0}/s", count as f64 / began.elapsed().as_secs_f64());

    let began = Instant::now();
    let subscription = client.subscribe(["dpc.example.Rate"]).credit(4_096).await?;
    let mut done = 0;
    let mut answers = Vec::new();
    while done < count {
        let batch = subscription.next_batch(1_024).await?;
        done += batch.len();
        answers.push(subscription.finalise_all(batch));
    }
    for answer in answers {
        answer.await?;
    }
    println!("finalised {:>9.0}/s", count as f64 / began.elapsed().as_secs_f64());
    subscription.close().await?;
    Ok(())
}
