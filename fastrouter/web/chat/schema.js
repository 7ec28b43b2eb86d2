// JSON schemas as people write them. Knows no field and no request.

/** What is wrong with the text; "" for nothing. */
export function problemOfSchema(text) {
  try {
    const schema = JSON.parse(text);
    return typeof schema === "object" && schema !== null && !Array.isArray(schema) ? "" : "A JSON schema is an object: it begins with { and ends with }.";
  } catch (error) {
    return `This is not JSON: ${error.message}`;
  }
}
