"""A real MCP server of the official package, as a program: `notes_mcp_server.py stdio`, or `http PORT-FILE` on a free loopback port."""

import asyncio
import os
import socket
import sys
from pathlib import Path
