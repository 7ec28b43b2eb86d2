// A sound's file becomes what a model can hear: a WAV file of 16 kHz, one channel, 16 bits. Knows no page and no conversation.

export const RATE = 16_000; // samples per second, as encoders of speech want them
export const MAX_SECONDS = 120; // 3.8 MB

/** {blob, seconds} of a File. Throws an Error for the user. */
export async function readSound(file) {
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer()); // changes its rate too
  } catch {
    throw new Error(`${file.name} is not a sound that this browser can read`);
  }
  if (sound.duration > MAX_SECONDS) throw new Error(`${file.name} is longer than ${MAX_SECONDS} seconds: attach a part of it`);
  return { blob: wavOf(mixed(sound)), seconds: sound.duration };
}

/** One channel: the average of all. */
function mixed(sound) {
  const samples = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel += 1) {
    sound.getChannelData(channel).forEach((value, at) => { samples[at] += value / sound.numberOfChannels; });
  }
  return samples;
}

export function wavOf(samples) {
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, index) => head.setUint8(at + index, letter.charCodeAt(0)));
  const num_bytes = 2 * samples.length;
  text(0, "RIFF");
  head.setUint32(4, 36 + num_bytes, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true); // not compressed
  head.setUint16(22, 1, true); // channels
  head.setUint32(24, RATE, true);
  head.setUint32(28, 2 * RATE, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, num_bytes, true);
  const data = new DataView(new ArrayBuffer(num_bytes));
  samples.forEach((value, at) => data.setInt16(2 * at, Math.round(32_767 * Math.max(-1, Math.min(1, value))), true));
  return new Blob([head, data], { type: "audio/wav" });
}
