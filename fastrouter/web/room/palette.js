// One colour for each model that has been in memory, the same in every part of this view.
// Invariant: a model keeps its colour; the colours themselves are in room.css, as --model-0 and so on.

const NUM_COLOURS = 6;

export class Palette {
  #numbers = new Map();

  /** Those that are or were in memory, in the order in which they came. */
  follow(models) {
    for (const { model } of models.past) if (!models.isVariant(model)) this.of(model);
    for (const { model } of models.usage?.models ?? []) this.of(model);
  }

  of(id) {
    if (!this.#numbers.has(id)) this.#numbers.set(id, this.#numbers.size % NUM_COLOURS);
    return this.#numbers.get(id);
  }

  /** For painted parts, which cannot use a class. */
  colour(id, element) {
    return getComputedStyle(element).getPropertyValue(`--model-${this.of(id)}`).trim();
  }
}
