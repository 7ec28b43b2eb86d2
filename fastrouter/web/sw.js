// fastrouter has no service worker. A browser that has met another server's page on this port may still have that page's: this one,
// which it fetches by the same name when it looks for an update, removes itself and what was cached.

self.addEventListener("install", () => self.skipWaiting());

self.addEventListener("activate", (event) => {
  event.waitUntil(leave());
});

async function leave() {
  await self.registration.unregister();
  for (const name of await caches.keys()) await caches.delete(name);
  for (const page of await self.clients.matchAll({ type: "window" })) page.navigate(page.url);
}
