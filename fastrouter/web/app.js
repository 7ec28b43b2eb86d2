// Puts the page together: who knows whom, and nothing else.

import { api } from "./api.js";
import { Models } from "./models.js";

const models = new Models(api);
models.start();
