"""Which chapter of the Python library reference documents a module: the labels of the docstring task, as data.

The chapters and their modules follow the table of contents of https://docs.python.org/3/library/. Neighbouring small
chapters are merged, and chapters are left out that are too small or whose modules are often missing (Tk, packaging,
multimedia). A private module stands with the public one that it implements.
"""

CHAPTERS = {
    "Text and Binary Data": (
        "string re difflib textwrap unicodedata stringprep readline rlcompleter struct codecs encodings "
        "_sre _string _strptime _struct _codecs"
    ),
    "Built-in and Data Types": (
        "builtins datetime zoneinfo calendar collections heapq bisect array weakref types copy copyreg pprint reprlib "
        "enum graphlib _datetime _collections _collections_abc _heapq _bisect _weakrefset"
    ),
    "Numeric and Mathematical Modules": (
        "numbers math cmath decimal fractions random statistics _decimal _pydecimal _random _statistics"
    ),
    "Files, Persistence and Archives": (
        "pathlib posixpath ntpath genericpath fileinput stat filecmp tempfile glob fnmatch linecache shutil "
        "pickle shelve marshal dbm sqlite3 zlib gzip bz2 lzma zipfile tarfile csv configparser tomllib netrc plistlib "
        "_pickle _compat_pickle _dbm _gdbm _sqlite3 _bz2 _lzma _compression _csv"
    ),
    "Generic Operating System Services": (
        "os io time argparse getopt optparse logging getpass curses platform errno ctypes "
        "posix _io _pyio _curses _curses_panel _ctypes"
    ),
    "Concurrent Execution": (
        "threading multiprocessing concurrent subprocess sched queue contextvars "
        "_thread _threading_local _multiprocessing _posixsubprocess _queue _contextvars"
    ),
    "Networking and Interprocess Communication": (
        "asyncio socket ssl select selectors signal mmap _asyncio _socket _ssl"
    ),
    "Internet Data and Structured Markup": (
        "email json mailbox mimetypes base64 binascii quopri html xml pyexpat _json _elementtree _markupbase"
    ),
    "Internet Protocols and Support": (
        "webbrowser wsgiref urllib http ftplib poplib imaplib smtplib uuid socketserver xmlrpc ipaddress _uuid"
    ),
    "Development and Debugging": (
        "typing pydoc doctest unittest bdb faulthandler pdb profile cProfile pstats timeit trace tracemalloc "
        "_typing _lsprof _tracemalloc"
    ),
    "Runtime Services": (
        "sys sysconfig warnings dataclasses contextlib abc atexit traceback gc inspect site __future__ "
        "_abc _py_abc _warnings _sitebuiltins"
    ),
    "Language and Import Services": (
        "ast symtable token keyword tokenize tabnanny pyclbr py_compile compileall dis pickletools opcode "
        "zipimport pkgutil modulefinder runpy importlib _ast _opcode _tokenize _symtable _imp"
    ),
}

CHAPTER_OF_MODULE = {module: chapter for chapter, modules in CHAPTERS.items() for module in modules.split()}
