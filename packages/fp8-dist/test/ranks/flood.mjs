// A stranger with raw sockets: flood.mjs PORT KIND COUNT. Prints one JSON line: how many connections the other side closed, and after
// how many milliseconds the last one went. FLOOD_AGAIN=1: whoever is closed comes back, until the time is up.
import { connect } from 'node:net';

const [port, kind, count] = [Number(process.argv[2]), process.argv[3], Number(process.argv[4])];
const greeting = (mechanism) =>
  Buffer.concat([
    Buffer.from('ff00000000000000017f0300', 'hex'),
    Buffer.from(mechanism.padEnd(20, '\0')),
    Buffer.alloc(32),
  ]);
const ready = Buffer.from('04190552454144590b536f636b65742d547970650000000450555348', 'hex');
ready[1] = ready.length - 2;
const announcesEightGiB = Buffer.from('020000000200000000', 'hex');
const first = {
  // Says nothing at all.
  idle: null,
  // A byte a second of the greeting.
  drip: null,
  // Begins to shake hands, and stops.
  halfOpen: greeting('CURVE'),
  // A frame of 8 GiB before the handshake is over, and then bytes without end.
  early: Buffer.concat([greeting('CURVE'), announcesEightGiB]),
  // The same from a peer that was let in, which only a socket without keys does.
  bomb: Buffer.concat([greeting('NULL'), ready, announcesEightGiB]),
}[kind];
const junk = Buffer.alloc(1 << 20);
const limit = Number(process.env.FLOOD_SECONDS ?? 8) * 1000;
const most = 400;
let closed = 0;
let last = 0;
const start = performance.now();
const again = process.env.FLOOD_AGAIN === '1';
function open() {
  const s = connect(port, '127.0.0.1', () => {
    if (first) s.write(first);
    let sent = 0;
    if (kind === 'early' || kind === 'bomb') s.timer = setInterval(() => sent++ < most && s.write(junk), 2);
    if (kind === 'drip') s.timer = setInterval(() => s.write(greeting('CURVE').subarray(sent, ++sent)), 1000);
  });
  s.on('error', () => {});
  s.on('close', () => {
    clearInterval(s.timer);
    closed++;
    last = performance.now() - start;
    if (again) setTimeout(open, 10);
    else if (closed === count) finish();
  });
  s.resume();
}
for (let i = 0; i < count; i++) open();
const timer = setTimeout(finish, limit);
function finish() {
  clearTimeout(timer);
  process.stdout.write(`${JSON.stringify({ closed, lastMs: Math.round(last) })}\n`, () => process.exit());
}
