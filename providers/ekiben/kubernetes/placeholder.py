"""x"""
SOURCE = "print(1)"
