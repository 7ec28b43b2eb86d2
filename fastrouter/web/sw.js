// fastrouter has no service worker. A browser that knows another server's page on this port may still have the worker of that page. When it
// looks for an update, it gets this file under the same name: it removes itself and all that was cached.

self.addEventListener("install", () => self.skipWaiting());

self.addEventListener("activate", (event) => {
  event.waitUntil(leave());
});

async function leave() {
  await self.registration.unregister();
  for (const name of await caches.keys()) await caches.delete(name);
  for (const page of await self.clients.matchAll({ type: "window" })) page.navigate(page.url);
}
