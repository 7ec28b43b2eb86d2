// Pictures and sounds as parts of the messages of a request. Knows no page and no storage.
// Invariant: a part says which picture or sound it is, and gets the bytes just before it is sent.

const UNSEEN = "[A picture, which this model cannot see.]";
const UNHEARD = "[A sound, which this model cannot hear.]";
const LOST = "[It was here, but it is no longer available.]";

/** All pictures and sounds of a question, in the order in which they are sent. */
export const mediaOf = ({ images = [], sounds = [] }) => [...images, ...sounds];

export const isSound = ({ type }) => type.startsWith("audio/");

/** `abilities`: {sees, hears} of the model. */
export function partsOfMedia(message, { sees, hears }) {
  return mediaOf(message).map((medium) => {
    if (isSound(medium)) return hears ? { type: "sound", id: medium.id } : { type: "text", text: UNHEARD };
    return sees ? { type: "picture", id: medium.id } : { type: "text", text: UNSEEN };
  });
}

/** The messages with the bytes. `media`: {dataUrlOf(id)} */
export function filled(messages, media) {
  return Promise.all(messages.map(async (message) => {
    if (!Array.isArray(message.content)) return message;
    return { ...message, content: await Promise.all(message.content.map((part) => partOf(part, media))) };
  }));
}

async function partOf(part, media) {
  if (part.type !== "picture" && part.type !== "sound") return part;
  const url = await media.dataUrlOf(part.id);
  if (!url) return { type: "text", text: LOST };
  if (part.type === "picture") return { type: "image_url", image_url: { url } };
  return { type: "input_audio", input_audio: { data: url.slice(url.indexOf(",") + 1), format: "wav" } };
}
