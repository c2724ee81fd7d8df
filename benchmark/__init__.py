"""What a run is, and its clock. Imports without torch: `import benchmark` costs nothing until a module is asked for."""

__version__ = "0.1.0"
