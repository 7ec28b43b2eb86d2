// Tools as people paste them: OpenAI's list, one tool of it, or the forms of other programs. Knows no field and no request.
// Invariant: the result is a list in OpenAI's form; for a text that cannot be read, `problem` names the place and the way out.

export const EXAMPLE = '[{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]';
export const CHOICES = ["auto", "none", "required"];
export const EFFORTS = ["none", "minimal", "low", "medium", "high"];

const FORM = 'Write a list of {"type": "function", "function": {"name": "…", "parameters": {…}}}.';

/** {tools, problem}: `problem` is "" if there is none. */
export function readTools(text) {
  try {
    return { tools: toolsOf(JSON.parse(text)), problem: "" };
  } catch (error) {
    const problem = error instanceof SyntaxError ? `This is not JSON: ${error.message}. ${FORM}` : error.message;
    return { tools: [], problem };
  }
}

/** Also {"tools": [...]}, and one tool without a list. */
function toolsOf(given) {
  const list = Array.isArray(given) ? given : Array.isArray(given?.tools) ? given.tools : [given];
  const tools = list.map((tool, at) => toolOf(tool, Array.isArray(given) || given?.tools ? `tools[${at}]` : "The tool"));
  const names = tools.map((tool) => tool.function.name);
  const twice = names.find((name, at) => names.indexOf(name) !== at);
  if (twice) throw new Error(`Two tools are called ${twice}. Give one of them another name.`);
  return tools;
}

/** Also the function alone, with its schema as `parameters`, `input_schema` or `inputSchema`. */
function toolOf(tool, place) {
  if (!isObject(tool)) throw new Error(`${place} is not an object. ${FORM}`);
  if (tool.type !== undefined && tool.type !== "function") throw new Error(`${place}.type is ${JSON.stringify(tool.type)}: only "function" can be used.`);
  if (tool.function !== undefined && !isObject(tool.function)) throw new Error(`${place}.function is not an object. ${FORM}`);
  const { name, description, strict, ...rest } = tool.function ?? tool;
  const inside = tool.function ? `${place}.function` : place;
  const parameters = rest.parameters ?? rest.input_schema ?? rest.inputSchema;
  if (typeof name !== "string" || !name) throw new Error(`${inside}.name is missing. Write "name": "…" with the name that the model calls.`);
  if (parameters !== undefined && !isObject(parameters)) throw new Error(`${inside}.parameters is not an object. Write a JSON schema, such as {"type": "object", "properties": {}}.`);
  const known = Object.entries({ description, parameters, strict }).filter(([, value]) => value !== undefined && value !== null);
  return { type: "function", function: { name, ...Object.fromEntries(known) } };
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
