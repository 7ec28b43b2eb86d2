"""The flags of the router, of its default model, of models' times, and the keys that only preset files have. Only a table."""

from fastrouter.config.flag import Flag, Kind, Scope, flag
from fastrouter.options.limits import DEFAULT_PATIENCE_S, DEFAULT_POLL
from fastrouter.options.tool_definitions import BY_NAME


def router_flags() -> list[Flag]:
    scope = Scope.ROUTER
    return [
        flag(scope, "--models-dir", "MODELS_DIR", Kind.PATH, "models_dir", "folder of GGUF files, searched with its sub-folders"),
        flag(scope, "--models-preset", "MODELS_PRESET", Kind.PATH, "models_preset", "INI file of presets"),
        flag(scope, "--strict --no-strict", "STRICT", Kind.SWITCH, "strict", "a wrong section of the preset file stops the start (off)"),
        flag(scope, "--models-max", "MODELS_MAX", Kind.INT, "models_max", "models in memory at a time (4; 0: no limit)", low=0),
        flag(
            scope,
            "--models-memory",
            "MODELS_MEMORY",
            Kind.MEMORY,
            "models_memory_mib",
            "MiB for all models (auto: the free memory; 0: no limit)",
            low=-1,
        ),
        flag(
            scope,
            "--models-memory-device",
            "MODELS_MEMORY_DEVICE",
            Kind.MEMORY,
            "models_memory_device_mib",
            "the same for GPU memory (auto)",
            low=-1,
        ),
        flag(
            scope,
            "--park-ram",
            "PARK_RAM",
            Kind.MEMORY,
            "park_ram_mib",
            "MiB for prompts of models that have left memory (auto: 8192, or a quarter of the free memory; 0: off)",
            low=-1,
        ),
        flag(scope, "--park-dir", "PARK_DIR", Kind.PATH, "park_dir", "folder where parked prompts survive a restart (none)"),
        flag(scope, "--park-disk", "PARK_DISK", Kind.INT, "park_disk_mib", "MiB of parked prompts in --park-dir (8192)", low=0),
        flag(
            scope,
            "--queue-timeout",
            "QUEUE_TIMEOUT",
            Kind.FLOAT,
            "queue_timeout_s",
            "seconds a request may wait for its model; then it gets 503 (0: no limit)",
            low=0,
        ),
        flag(
            scope,
            "--queue-patience",
            "QUEUE_PATIENCE",
            Kind.FLOAT,
            "queue_patience_s",
            f"seconds that requests for models in memory may go before one that waits for its model ({DEFAULT_PATIENCE_S:g})",
            low=0,
        ),
        flag(
            scope,
            "--worker-hang-timeout",
            "WORKER_HANG_TIMEOUT",
            Kind.FLOAT,
            "worker_hang_timeout_s",
            "seconds a worker may make no progress; then it is killed and its requests go on in a new one (30; 0: no limit)",
            low=0,
        ),
        flag(
            scope,
            "--models-autoload --no-models-autoload",
            "MODELS_AUTOLOAD",
            Kind.SWITCH,
            "models_autoload",
            "load a model when a request asks for it (on)",
        ),
        flag(scope, "--foresee --no-foresee", "FORESEE", Kind.SWITCH, "foresee", "prepare for the model that usually comes next (on)"),
        flag(
            scope,
            "--read-ahead",
            "READ_AHEAD",
            Kind.MEMORY,
            "read_ahead_mib",
            "MiB of a file that may be read before its model is asked for (auto: half of the free memory; 0: none)",
            low=-1,
        ),
        flag(
            scope,
            "--confine-workers --no-confine-workers",
            "CONFINE_WORKERS",
            Kind.SWITCH,
            "confine_workers",
            "a model's process reaches no other files and no network (on)",
        ),
        flag(scope, "--watch --no-watch", "WATCH", Kind.SWITCH, "watch", "reload when presets, folders or caches change (off)"),
        flag(scope, "--offline", "OFFLINE", Kind.SWITCH, "offline", "never use the network"),
        flag(scope, "-hft --hf-token", "HF_TOKEN", Kind.TEXT, "hf_token", "token for the hub; better given as HF_TOKEN"),
        flag(scope, "--host", "HOST", Kind.TEXT, "host", "addresses or .sock paths, comma-separated (127.0.0.1)"),
        flag(scope, "--port", "PORT", Kind.INT, "port", "port (8080; 0: any free one)", low=0, high=65535),
        flag(
            scope,
            "--ollama-port",
            "OLLAMA_PORT",
            Kind.INT,
            "ollama_port",
            "a second port, for clients of Ollama that only know 11434 (none; 0: any free one)",
            low=0,
            high=65535,
        ),
        flag(scope, "--api-prefix", "API_PREFIX", Kind.TEXT, "api_prefix", "prefix of all paths, such as /router"),
        flag(scope, "-to --timeout", "TIMEOUT", Kind.FLOAT, "timeout_s", "seconds a client may stop reading (10) or be idle (75)", low=1),
        flag(scope, "--api-key", "LLAMA_API_KEY", Kind.LIST, "api_keys", "keys, comma-separated; a file is safer, because ps shows these"),
        flag(scope, "--api-key-file", "API_KEY_FILE", Kind.PATH, "api_key_file", "a key and its limits per line; read again on changes"),
        flag(scope, "--ssl-key-file", "SSL_KEY_FILE", Kind.PATH, "ssl_key_file", "PEM file of the private key, to serve HTTPS"),
        flag(scope, "--ssl-cert-file", "SSL_CERT_FILE", Kind.PATH, "ssl_cert_file", "PEM file of the certificate and its chain"),
        flag(scope, "--reuse-port", "REUSE_PORT", Kind.SWITCH, "reuse_port", "share the port with other routers on this machine"),
        flag(scope, "--insecure", "", Kind.SWITCH, "insecure", "allow other machines to connect without a key"),
        flag(
            scope,
            "--allowed-hosts",
            "ALLOWED_HOSTS",
            Kind.LIST,
            "allowed_hosts",
            "other names of this server that a proxy sends, comma-separated (*: any)",
        ),
        flag(scope, "--cors-origins", "CORS_ORIGINS", Kind.TEXT, "cors_origins", "other sites whose pages may send requests (localhost)"),
        flag(scope, "--cors-methods", "CORS_METHODS", Kind.TEXT, "cors_methods", "methods those pages may use"),
        flag(scope, "--cors-headers", "CORS_HEADERS", Kind.TEXT, "cors_headers", "headers those pages may send"),
        flag(scope, "--cors-credentials --no-cors-credentials", "CORS_CREDENTIALS", Kind.SWITCH, "cors_credentials", "allow credentials"),
        flag(scope, "--slots --no-slots", "ENDPOINT_SLOTS", Kind.SWITCH, "slots_endpoint", "GET /slots (on)"),
        flag(scope, "--props", "ENDPOINT_PROPS", Kind.SWITCH, "props_endpoint", "POST /props"),
        flag(scope, "--metrics --no-metrics", "ENDPOINT_METRICS", Kind.SWITCH, "metrics_endpoint", "GET /metrics (on)"),
        flag(
            scope,
            "--sse-ping-interval",
            "SSE_PING_INTERVAL",
            Kind.FLOAT,
            "sse_ping_interval_s",
            "seconds of silence until a stream gets a comment (3; -1: never)",
            low=-1,
        ),
        flag(
            scope,
            "--poll",
            "",
            Kind.INT,
            "poll",
            f"how long threads spin while idle: 0 not at all, 100 about 1 ms ({DEFAULT_POLL})",
            low=0,
            high=100,
        ),
        flag(
            scope,
            "--responses-dir",
            "RESPONSES_DIR",
            Kind.PATH,
            "responses_dir",
            "folder for stored responses (fastrouter in the user's cache)",
        ),
        flag(
            scope, "--responses-mib", "RESPONSES_MIB", Kind.INT, "responses_mib", "MiB of stored responses (256; 0: none is stored)", low=0
        ),
        flag(
            scope,
            "--created-dir",
            "CREATED_DIR",
            Kind.PATH,
            "created_dir",
            "folder of models made with POST /api/create (fastrouter in the user's data folder)",
        ),
        flag(scope, "--blobs-mib", "BLOBS_MIB", Kind.INT, "blobs_mib", "MiB of model files that clients upload (65536; 0: none)", low=0),
        flag(scope, "--webui --ui --no-webui --no-ui", "UI", Kind.SWITCH, "ui", "the web page at / (on)"),
        flag(
            scope,
            "--media-path",
            "",
            Kind.PATH,
            "media_path",
            "folder of pictures, audio and videos that requests may name as file:// URLs",
        ),
        flag(scope, "--video-fps", "VIDEO_FPS", Kind.FLOAT, "video_fps", "frames of a video in each second of it (4)", low=0.01, high=60),
        flag(
            scope,
            "--video-timestamp-interval",
            "VIDEO_TIMESTAMP_INTERVAL",
            Kind.INT,
            "video_timestamp_interval_ms",
            "milliseconds between the times that a model reads in a video (5000; 0: none)",
            low=0,
        ),
        flag(scope, "--video-ffmpeg-dir", "VIDEO_FFMPEG_DIR", Kind.PATH, "video_ffmpeg_dir", "folder of ffmpeg (that of programs)"),
        flag(scope, "--path", "STATIC_PATH", Kind.PATH, "static_path", "folder of files to serve at / instead"),
        flag(scope, "--webui-config --ui-config", "UI_CONFIG", Kind.JSON, "ui_settings", "settings of new conversations on the page"),
        flag(scope, "--webui-config-file --ui-config-file", "UI_CONFIG_FILE", Kind.PATH, "ui_settings", "the same from a file"),
        flag(scope, "--log-file", "LOG_FILE", Kind.PATH, "log_file", "log to a file instead of stderr"),
        flag(scope, "--log-format", "LOG_FORMAT", Kind.TEXT, "log_format", "format of log lines (text)", choices=("text", "json")),
        flag(scope, "--log-jsonl --no-log-jsonl", "LOG_JSONL", Kind.SWITCH, "log_jsonl", "same as --log-format json"),
        flag(scope, "--log-colors", "LOG_COLORS", Kind.THREE_WAY, "log_colors", "colours (auto: on a terminal, unless NO_COLOR is set)"),
        flag(scope, "--log-timestamps --no-log-timestamps", "LOG_TIMESTAMPS", Kind.SWITCH, "log_timestamps", "lines begin with the time"),
        flag(scope, "--log-prefix --no-log-prefix", "LOG_PREFIX", Kind.SWITCH, "log_prefix", "warning: and error: before such lines"),
        flag(scope, "--log-disable", "", Kind.SWITCH, "log_disable", "log nothing"),
        flag(scope, "--log-requests --no-log-requests", "LOG_REQUESTS", Kind.SWITCH, "log_requests", "log a line for each request"),
        flag(
            scope,
            "-lv --log-verbosity --verbosity",
            "LOG_VERBOSITY",
            Kind.INT,
            "verbosity",
            "0 nothing, 1 errors, 2 warnings, 3 events, 5 all (3)",
            low=-1,
        ),
        flag(scope, "-v --log-verbose --verbose", "", Kind.SWITCH, "verbose", "log everything"),
        flag(
            scope,
            "--record",
            "RECORD",
            Kind.PATH,
            "record",
            "file for times and sizes of requests and loads, for `fastrouter simulate`",
        ),
        flag(scope, "--completion-bash", "", Kind.SWITCH, "", "print a script for bash, like `fastrouter completion bash`"),
        flag(scope, "--shutdown-timeout", "", Kind.FLOAT, "shutdown_timeout_s", "seconds that running requests get at the end (10)", low=0),
    ]


def tool_flags() -> list[Flag]:
    scope = Scope.ROUTER
    return [
        flag(scope, "--tools", "TOOLS", Kind.LIST, "tools", f"tools of this machine for models: all, or some of {', '.join(BY_NAME)}"),
        flag(scope, "--tools-dir", "TOOLS_DIR", Kind.FOLDER, "tools_dir", "the folder below which these tools work; --tools needs it"),
        flag(
            scope,
            "--mcp-servers-config",
            "MCP_SERVERS_CONFIG",
            Kind.PATH,
            "mcp_servers_config",
            "JSON file of MCP servers whose tools are offered too",
        ),
        flag(scope, "--mcp-servers-json", "MCP_SERVERS_JSON", Kind.JSON, "mcp_servers_json", "the same as a text; a file is safer"),
        flag(
            scope,
            "--ui-mcp-proxy --webui-mcp-proxy --no-ui-mcp-proxy --no-webui-mcp-proxy",
            "UI_MCP_PROXY",
            Kind.SWITCH,
            "ui_mcp_proxy",
            "pages may send requests to the MCP servers of that file, by /cors-proxy (off)",
        ),
        flag(scope, "-ag --agent -no-ag --no-agent", "AGENT", Kind.SWITCH, "agent", "--tools all and --ui-mcp-proxy (off)"),
    ]


def source_flags() -> list[Flag]:
    scope = Scope.SOURCE
    return [
        flag(scope, "-m --model", "MODEL", Kind.PATH, "model", "GGUF file"),
        flag(scope, "-hf -hfr --hf-repo", "HF_REPO", Kind.TEXT, "hf_repo", "user/repo[:quant]; downloaded if it is not in the cache"),
        flag(scope, "-hff --hf-file", "HF_FILE", Kind.TEXT, "hf_file", "a file of --hf-repo"),
        flag(scope, "-mm --mmproj", "MMPROJ", Kind.PATH, "mmproj", "the model's projector, for pictures (the mmproj file beside it)"),
        flag(
            scope,
            "--mmproj-auto --no-mmproj --no-mmproj-auto",
            "MMPROJ_AUTO",
            Kind.SWITCH,
            "mmproj_auto",
            "use the projector (mmproj) beside the model",
        ),
        flag(scope, "-a --alias", "ALIAS", Kind.LIST, "aliases", "other names, comma-separated"),
        flag(scope, "--tags", "TAGS", Kind.LIST, "tags", "tags shown in the listing, comma-separated"),
    ]


def lifetime_flags() -> list[Flag]:
    scope = Scope.LIFETIME
    return [
        flag(scope, "--ttl", "TTL", Kind.FLOAT, "ttl_s", "seconds without a request until a model is unloaded (-1: never)", low=-1),
        flag(
            scope,
            "--sleep-idle-seconds",
            "SLEEP_IDLE_SECONDS",
            Kind.INT,
            "sleep_idle_s",
            "the same, but the model sleeps and keeps its place (-1: never)",
            low=-1,
        ),
        flag(scope, "--min-resident", "MIN_RESIDENT", Kind.FLOAT, "min_resident_s", "seconds a loaded model is not evicted (0)", low=0),
        flag(scope, "--load-timeout", "LOAD_TIMEOUT", Kind.FLOAT, "load_timeout_s", "seconds a load may take (600; 0: no limit)", low=0),
        flag(scope, "--stop-timeout", "STOP_TIMEOUT", Kind.FLOAT, "stop_timeout_s", "seconds until an unload kills its worker (10)", low=0),
    ]


def preset_flags() -> list[Flag]:
    scope = Scope.PRESET
    return [
        flag(scope, "load-on-startup", "", Kind.SWITCH, "load_on_startup", "load the model when the router starts"),
        flag(scope, "pin", "", Kind.SWITCH, "is_pinned", "never evict the model"),
        flag(scope, "base", "", Kind.TEXT, "base", "the model whose process it shares; it may change what a request can set"),
        flag(scope, "system-prompt", "", Kind.TEXT, "system", "system message of chats that have none"),
        flag(scope, "system-prompt-file", "", Kind.PATH, "system", "a file with the system message"),
        flag(scope, "messages-file", "", Kind.PATH, "messages", "a JSON file with messages that begin each chat"),
        flag(scope, "dedup-cache-models", "", Kind.SWITCH, "hides_cached", "do not list the cached model that a section uses"),
        flag(scope, "version", "", Kind.TEXT, "", "accepted"),
    ]
